"""Requests of keepgate.v1 and inference from an input's bytes: mostly sensible, by what each field is called,
often not.

A message is filled by its descriptor, so a field or a method that is new is fuzzed without a line here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fuzz import oip
from fuzz.dice import Dice
from fuzz.known import FEATURES, MODELS, VOCABULARY, WIDTHS, World
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from keepgate_protos.oip import grpc_service_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.repositories import ALPHABET

LIMIT = 40
"""Inputs of a request, at most: see `served.LIMITS`."""
NEARLY_ALWAYS = frozenset(
    (
        *("session_id", "session_ids", "inputs", "prompt", "model", "blob", "step", "max_tokens", "name"),
        *("target", "kind", "bind", "frame"),
    )
)
NESTED_MOST = 6

F = FieldDescriptor
BITS = {F.TYPE_UINT32: 32, F.TYPE_UINT64: 64, F.TYPE_FIXED32: 32, F.TYPE_FIXED64: 64}
SIGNED = {F.TYPE_INT32: 31, F.TYPE_INT64: 63, F.TYPE_SINT32: 31, F.TYPE_SINT64: 63}


class Requests:
    """Builds one request after the other, with what `world` knows by then."""

    def __init__(self, world: World) -> None:
        self._world = world

    def of_stream(self, method: MethodDescriptor, dice: Dice, count: int) -> list[bytes]:
        """Requests of one call. Frames are about one model, and mostly of what was bound before."""
        if method.name != "StreamFrames":
            return [self.serialized(method, dice) for _ in range(count)]
        context = self._context(method, dice)
        return [self.serialized(method, dice, context) for _ in range(count)]

    def serialized(
        self, method: MethodDescriptor, dice: Dice, context: dict[str, str] | None = None
    ) -> bytes:
        """A request of a method as bytes, sometimes damaged: then perhaps no message at all."""
        message = GetMessageClass(method.input_type)()
        self._fill(message, dice, context or self._context(method, dice))
        self._expect(message)
        data = bytes(message.SerializeToString())
        if dice.chance(2 if method.client_streaming else 10):
            return dice.some_bytes(64) if dice.chance(30) else dice.damage(data)
        return data

    def _expect(self, message: Message) -> None:
        """Steps of one stream follow each other: the next request may well come after this one."""
        if isinstance(message, pb.StreamRequest):
            step = message.step
            inputs = step.inputs
            count = len(inputs.tokens.ids) or len(inputs.text) or len(inputs.features.values) // FEATURES
            known = self._world.sessions.get(step.session_id)
            if known is not None and (not step.HasField("position") or step.position == known.position):
                self._world.moved(step.session_id, known.position + count)

    def _context(self, method: MethodDescriptor, dice: Dice) -> dict[str, str]:
        """The session that a request is about, and its model, which many fields depend on."""
        session = self._world.some_session(dice)
        opens = method.name in ("Open", "Import")
        model = dice.pick(MODELS) if opens else self._world.model_of(session, dice)
        new = self._world.new_session(dice)
        return {"session": session, "model": model, "new": new, "opens": "yes" if opens else ""}

    def _fill(self, message: Message, dice: Dice, context: dict[str, str], depth: int = 0) -> None:
        if isinstance(message, pb.Inputs) and dice.chance(93):
            self._fill_inputs(message, dice, context["model"])
            return
        if isinstance(message, pb.Frame) and dice.chance(93):
            self._fill_frame(message, dice, context)
            return
        if isinstance(message, grpc_service_pb2.ModelInferRequest) and dice.chance(93):
            oip.fill(message, dice)
            return
        chosen = {oneof.name: dice.pick(oneof.fields).name for oneof in message.DESCRIPTOR.oneofs}
        if isinstance(message, pb.FramesRequest) and dice.chance(85):
            chosen["kind"] = "frame" if dice.chance(75) else "bind"
        for field in message.DESCRIPTOR.fields:
            oneof = field.containing_oneof
            if oneof is not None and len(oneof.fields) > 1 and chosen[oneof.name] != field.name:
                continue
            percent = 95 if field.name in NEARLY_ALWAYS else 60 if field.name == "position" else 35
            if not dice.chance(percent) or self._is_absurd(field.name, dice, context):
                continue
            if field.message_type is not None and depth >= NESTED_MOST:
                continue
            self._fill_field(message, field, dice, context, depth)

    def _is_absurd(self, name: str, dice: Dice, context: dict[str, str]) -> bool:
        """Most of what a feature model has no answer to is left out."""
        return name in ("sampling", "logits", "top_k") and context["model"] == "vectors" and dice.chance(95)

    def _fill_field(
        self, message: Message, field: FieldDescriptor, dice: Dice, context: dict[str, str], depth: int
    ) -> None:
        if field.name == "initial_state" and dice.chance(85):
            for h, c in WIDTHS[context["model"]]:
                state = getattr(message, field.name).add()
                state.h.extend(dice.number() for _ in range(h))
                state.c.extend(dice.number() for _ in range(c))
            return
        if field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(dice.below(4)):
                if field.message_type is not None and field.message_type.GetOptions().map_entry:
                    self._fill(values[dice.text()], dice, context, depth + 1)
                elif field.message_type is not None:
                    self._fill(values.add(), dice, context, depth + 1)
                else:
                    values.append(self._scalar(message, field, dice, context))
        elif field.message_type is not None:
            child = getattr(message, field.name)
            child.SetInParent()
            self._fill(child, dice, context, depth + 1)
        else:
            setattr(message, field.name, self._scalar(message, field, dice, context))

    def _fill_inputs(self, inputs: pb.Inputs, dice: Dice, model: str) -> None:
        """Inputs that the model takes, but for one in a few."""
        count = 1 + (dice.below(4) if dice.chance(75) else dice.below(LIMIT + 2))
        if model == "vectors":
            inputs.features.values.extend(dice.number() for _ in range(FEATURES * count + dice.chance(2)))
        elif model == "letters" and dice.chance(50):
            inputs.text = "".join(dice.pick(ALPHABET) for _ in range(count)) + ("é" if dice.chance(3) else "")
        else:
            ids = [dice.below(VOCABULARY[model]) for _ in range(count)]
            inputs.tokens.ids.extend([*ids, dice.integer(32)] if dice.chance(3) else ids)

    def _fill_frame(self, frame: pb.Frame, dice: Dice, context: dict[str, str]) -> None:
        """Rows of the handles that binds gave, or nearly: columns that fit each other."""
        count, model = 1 + (0 if dice.chance(60) else dice.below(4)), context["model"]
        first = 0 if dice.chance(80) else dice.below(3)
        handles = [first + row if dice.chance(95) else dice.integer(64) for row in range(count)]
        frame.handles = np.array(handles, "<u8").tobytes()
        positions = [self._world.some_position(context["session"], dice) for _ in range(count)]
        frame.positions = np.array(positions, "<u8").tobytes()
        if model == "vectors":
            numbers = np.array([dice.number() for _ in range(FEATURES * count)])
            frame.features = numbers.astype("<f4").tobytes()
        else:
            frame.tokens = np.array([dice.below(VOCABULARY[model]) for _ in range(count)], "<u4").tobytes()
        frame.log_probabilities = dice.chance(50)

    def _scalar(self, message: Message, field: FieldDescriptor, dice: Dice, context: dict[str, str]) -> Any:
        named = self._named(message, field.name, dice, context)
        if named is not None:
            return named
        kind = field.type
        if kind in BITS:
            return dice.integer(BITS[kind])
        if kind in SIGNED:
            number = dice.integer(SIGNED[kind])
            return -number if dice.chance(30) else number
        if kind in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
            return dice.number()
        if kind == F.TYPE_BOOL:
            return dice.chance(50)
        if kind == F.TYPE_ENUM:
            return dice.below(4) if dice.chance(97) else dice.integer(31)
        return dice.some_bytes(64) if kind == F.TYPE_BYTES else dice.text()

    def _named(self, message: Message, name: str, dice: Dice, context: dict[str, str]) -> Any:
        """A value that makes sense for a field of this name; None for names that say nothing."""
        if name == "session_ids":
            return context["session"] if dice.chance(80) else self._world.some_session(dice)
        if name == "session_id":
            return context["new"] if context["opens"] else context["session"]
        if name == "fork_id":
            return context["new"]
        if name == "position":
            return self._world.some_position(context["session"], dice)
        if name == "blob":
            return self._world.some_blob(dice)
        if name in ("model", "name"):
            return (
                ""
                if isinstance(message, pb.ImportRequest | pb.ListRequest) and dice.chance(70)
                else self._model(dice, context)
            )
        if name == "version":
            return dice.pick(("", "", "", "1", "2", "01", "x"))
        if name == "page_token":
            return dice.pick(self._world.pages) if self._world.pages and dice.chance(80) else dice.text()
        if name == "top_k":
            most = VOCABULARY.get(context["model"], 0)
            return dice.below(most + 1) if dice.chance(95) else dice.integer(32)
        if name in ("max_tokens", "coalesce"):
            return dice.below(24) if dice.chance(95) else dice.integer(32)
        if name in ("top_p", "temperature"):
            return dice.below(64) / 63 if dice.chance(90) else dice.number()
        if name == "seconds":
            return dice.below(3_600) if dice.chance(90) else None
        return None

    def _model(self, dice: Dice, context: dict[str, str]) -> str:
        return context["model"] if dice.chance(95) else dice.text()
