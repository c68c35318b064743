"""Requests of inference by the Open Inference Protocol, mostly sensible."""

from __future__ import annotations

import struct
from typing import Any

from fuzz.dice import Dice
from fuzz.known import FEATURES, MODELS, VOCABULARY
from keepgate_protos.oip import grpc_service_pb2 as pb

SEQUENCES: tuple[int | str, ...] = (1, 2, 3, "1", "a b", "x" * 130, -1)
"""Ids that sequences get again and again."""
LIMIT = 40
OUTPUTS = ("logits", "token", "outputs", "hidden", "gates")
NUMBERS = ("temperature", "top_p")
INTEGERS = ("timeout", "priority", "top_k", "seed", "keepgate_position")
FLAGS = ("keepgate_last_only", "triton_enable_empty_final_response", "triton_grpc_error")
OTHERS = ("triton_x", "keepgate_x", "custom")


def fill(request: pb.ModelInferRequest, dice: Dice) -> None:
    """One request of inference."""
    model = dice.pick(MODELS)
    request.model_name = model if dice.chance(97) else dice.text()
    if dice.chance(15):
        request.model_version = dice.pick(("1", "2", "9"))
    request.id = dice.text() if dice.chance(30) else ""
    _parameters(request, dice)
    count = 1 + (dice.below(4) if dice.chance(80) else dice.below(LIMIT + 2))
    _tensor(request, dice, model, count)
    for _ in range(dice.below(3)):
        request.outputs.add(name=dice.pick(OUTPUTS))


def _parameters(request: pb.ModelInferRequest, dice: Dice) -> None:
    given: Any = request.parameters
    if dice.chance(85):
        sequence = dice.pick(SEQUENCES)
        if isinstance(sequence, int):
            given["sequence_id"].int64_param = sequence
        else:
            given["sequence_id"].string_param = sequence
        given["sequence_start"].bool_param = dice.chance(20)
        given["sequence_end"].bool_param = dice.chance(10)
    if dice.chance(70):
        return
    for name in (*NUMBERS, *INTEGERS, *FLAGS, *OTHERS):
        if not dice.chance(12):
            continue
        if name in NUMBERS:
            given[name].double_param = dice.number()
        elif name in FLAGS:
            given[name].bool_param = dice.chance(50)
        elif dice.chance(90):
            given[name].int64_param = dice.below(8) if dice.chance(80) else dice.integer(63)
        else:
            given[name].string_param = dice.text()


def _tensor(request: pb.ModelInferRequest, dice: Dice, model: str, count: int) -> None:
    tensor = request.inputs.add()
    if model == "vectors":
        tensor.name, tensor.datatype, shape = "features", "FP32", [count, FEATURES]
        numbers = [dice.number() for _ in range(count * FEATURES)]
        raw = b"".join(map(_float, numbers))
        if dice.chance(20):
            tensor.contents.fp32_contents.extend(numbers)
    else:
        tensor.name, tensor.datatype, shape = "tokens", "INT32", [count]
        ids = [dice.below(VOCABULARY[model]) for _ in range(count)]
        if dice.chance(3):
            ids[0] = -1
        raw = struct.pack(f"<{count}i", *ids)
        if dice.chance(20):
            tensor.contents.int_contents.extend(ids)
    if dice.chance(3):
        shape = [dice.integer(63) for _ in range(dice.below(5))]
    tensor.shape.extend([1, *shape] if dice.chance(20) else shape)
    if not tensor.HasField("contents") or dice.chance(3):
        request.raw_input_contents.append(raw if dice.chance(97) else dice.some_bytes(40))


def _float(number: float) -> bytes:
    """float32, or a number that is none."""
    try:
        return struct.pack("<f", number)
    except OverflowError:
        return struct.pack("<f", float("nan"))
