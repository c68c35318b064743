"""One StreamFrames call: sessions are bound to handles, then stepped together, a row each.

The call reads while fewer than FRAMES_PENDING of its requests wait for their answer to be written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc
import numpy as np
from keepgate_kernels import Sampling
from keepgate_kernels.spec import FeatureInput
from keepgate_protos.v1 import sequences_pb2 as pb
from numpy.typing import NDArray

from keepgate.columns import Answer, Columns
from keepgate.errors import InvalidArgumentError, RequestError
from keepgate.models.registry import LoadedModel
from keepgate.rpc.convert import MAX_FEATURE, sampling_from
from keepgate.rpc.decode import well_formed
from keepgate.rpc.ending import check_end, ending
from keepgate.rpc.status import internal_status, to_status
from keepgate.sequences import Sequences
from keepgate.telemetry.calls import Call, current

METHOD = "/keepgate.v1.Sequences/StreamFrames"
FRAMES_PENDING = 16
"""Requests that are read and not answered: enough to keep the engine busy while a client thinks."""
MAX_ROWS = 4_096
"""Sessions of one bind, or one frame: it must not hold up all others if each is refused."""
AT_ONCE = 256
UNBOUND = 2**64 - 1
"""The handle of a session that could not be bound."""

Context = grpc.aio.ServicerContext[pb.FramesRequest, pb.FramesResponse]


class FrameStream:
    """Owns the sessions that it has bound till it ends."""

    def __init__(self, sequences: Sequences, context: Context) -> None:
        self._sequences = sequences
        self._context = context
        self._call = current()
        self._columns: Columns | None = None
        self._ready: deque[pb.FramesResponse] = deque()
        self._unwritten = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client half-closes and has all answers, the server drains, or the stream is old.

        Raises DrainingError and ConnectionAgedError in the latter cases, when all that was read is answered,
        and InvalidArgumentError after a request that does not parse.
        """
        reader = asyncio.ensure_future(self._read())
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            with ending(self._sequences, reader, reader.cancel):
                await self._write(reader)
                check_end(self._sequences, reader)
        finally:
            if self._columns is not None:
                self._columns.close()

    async def _read(self) -> None:
        while isinstance(request := well_formed(await self._context.read()), pb.FramesRequest):  # else EOF
            while self._unwritten >= FRAMES_PENDING:
                self._room.clear()
                await self._room.wait()
            self._unwritten += 1
            await self._take(request)

    async def _write(self, reader: asyncio.Future[None]) -> None:
        while True:
            while self._ready:
                await self._context.write(self._ready.popleft())
                self._unwritten -= 1
                self._room.set()
            if reader.done() and not self._unwritten:
                return
            await self._wake.wait()
            self._wake.clear()

    async def _take(self, request: pb.FramesRequest) -> None:
        kind = request.WhichOneof("kind")
        try:
            if kind == "frame":
                self._step(request)
            elif kind == "bind":
                self._say(
                    pb.FramesResponse(request_id=request.request_id, bound=await self._bind(request.bind))
                )
            elif kind == "unbind":
                self._unbind(request.unbind)
                self._say(pb.FramesResponse(request_id=request.request_id, unbound=pb.Unbound()))
            else:
                raise InvalidArgumentError("kind", "nothing", "bind, frame or unbind")
        except asyncio.CancelledError:  # while sessions were fetched: they are bound, and nobody hears of it
            self._unwritten -= 1
            raise
        except RequestError as error:
            self._say(pb.FramesResponse(request_id=request.request_id, error=to_status(error)))
        except Exception as error:  # a bug; unanswered, this request would keep the call from ending
            self._say(pb.FramesResponse(request_id=request.request_id, error=internal_status(error, METHOD)))

    def _say(self, answer: pb.FramesResponse) -> None:
        self._ready.append(answer)
        self._wake.set()

    # --- binding ---

    async def _bind(self, bind: pb.Bind) -> pb.Bound:
        count = len(bind.session_ids)
        if not 1 <= count <= MAX_ROWS:
            raise InvalidArgumentError("bind.session_ids", f"{count} ids", f"from 1 to {MAX_ROWS}")
        if self._columns is not None and not self._columns.is_bound.any():
            self._columns.close()
            self._columns = None  # so that the call may go on with another model
        seeds = column(bind.seeds, "<u8", count, "bind.seeds") if bind.seeds else None
        handles = np.full(count, UNBOUND, "<u8")
        positions = np.zeros(count, "<u8")
        errors: list[pb.RowError] = []
        sampling: Sampling | None = None
        for row, session_id in enumerate(bind.session_ids):
            if row % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)  # others have their turn
            try:
                session = await self._sequences.find(session_id)
                model = self._sequences.model_of(session)
                if self._columns is None:
                    self._columns = Columns(self._sequences, model)
                self._check_model(self._columns.model, model, row)
            except RequestError as error:
                errors.append(pb.RowError(row=row, status=to_status(error)))
                continue
            if sampling is None:  # if it is wrong it is for all rows
                sampling = sampling_from(bind.sampling, model, "bind.sampling")
            try:
                own = sampling if seeds is None else _seeded(sampling, int(seeds[row]))
                handles[row] = self._columns.bind(session, own)
                positions[row] = session.tail
            except RequestError as error:
                errors.append(pb.RowError(row=row, status=to_status(error)))
        return pb.Bound(handles=handles.tobytes(), positions=positions.tobytes(), errors=errors)

    def _check_model(self, bound: LoadedModel, model: LoadedModel, row: int) -> None:
        if model is not bound:  # nor a version that was loaded anew
            raise InvalidArgumentError(
                f"bind.session_ids[{row}]",
                f"a session of {model.key.name}/{model.key.version}",
                f"one of {bound.key.name}/{bound.key.version}, as those that this call has bound",
            )

    def _unbind(self, unbind: pb.Unbind) -> None:
        handles = column(unbind.handles, "<u8", None, "unbind.handles")
        self._bound_columns("unbind.handles").unbind(handles)

    def _bound_columns(self, field: str) -> Columns:
        if self._columns is None:
            raise InvalidArgumentError(field, "a handle", "bind first: this call has bound no session")
        return self._columns

    # --- stepping ---

    def _step(self, request: pb.FramesRequest) -> None:
        frame = request.frame
        columns = self._bound_columns("frame.handles")
        count = len(column(frame.handles, "<u8", None, "frame.handles"))
        if count > MAX_ROWS:
            raise InvalidArgumentError("frame.handles", f"{count} rows", f"at most {MAX_ROWS}")
        rows = columns.rows(frame.handles, "frame.handles")
        positions = column(frame.positions, "<u8", len(rows), "frame.positions")
        inputs = _inputs(frame, columns.model, len(rows))
        answer = columns.step(rows, positions, inputs)
        request_id, wanted = request.request_id, frame.log_probabilities
        answer.when_whole(lambda: self._answer(request_id, answer, wanted))

    def _answer(self, request_id: int, answer: Answer, log_probabilities: bool) -> None:
        message = pb.FramesResponse(request_id=request_id)
        try:
            _fill(message.frame, answer, log_probabilities, self._call)
        except Exception as error:  # as in `_take`
            message.error.CopyFrom(internal_status(error, METHOD, self._call))
        self._say(message)


def column(data: bytes, kind: str, count: int | None, field: str) -> NDArray[Any]:
    """A column of a message. count: how many values it must have; None for at least one.

    Raises InvalidArgumentError.
    """
    size = np.dtype(kind).itemsize
    values, rest = divmod(len(data), size)
    if rest or (values != count if count is not None else not values):
        wanted = f"a multiple of {size}, and more than 0" if count is None else f"{count} values of {size}"
        raise InvalidArgumentError(field, f"{len(data)} bytes", wanted)
    return np.frombuffer(data, kind)


def _seeded(sampling: Sampling, seed: int) -> Sampling:
    return Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed)


def _inputs(frame: pb.Frame, model: LoadedModel, count: int) -> NDArray[Any]:
    """uint32 [B] or float32 [B, K], valid for the model."""
    name = model.key.name
    if isinstance(model.spec.input, FeatureInput):
        if frame.tokens:
            raise InvalidArgumentError("frame.tokens", "tokens", f"features: model {name!r} takes no tokens")
        size = model.spec.input.size
        features = column(frame.features, "<f4", count * size, "frame.features").reshape(count, size)
        wrong = ~(np.abs(features) <= MAX_FEATURE)  # NaN is no magnitude
        if wrong.any():
            row, place = (int(index[0]) for index in np.nonzero(wrong))
            expected = f"a finite number, of a magnitude of at most {MAX_FEATURE:g}"
            raise InvalidArgumentError(
                f"frame.features[{row}][{place}]", f"{features[row, place]:g}", expected
            )
        return features
    if frame.features:
        raise InvalidArgumentError("frame.features", "features", f"tokens: model {name!r} takes tokens")
    tokens = column(frame.tokens, "<u4", count, "frame.tokens")
    if tokens.max() >= model.vocabulary_size:
        row = int(np.argmax(tokens >= model.vocabulary_size))
        expected = f"less than {model.vocabulary_size}, the vocabulary size"
        raise InvalidArgumentError(f"frame.tokens[{row}]", str(tokens[row]), expected)
    return tokens


def _fill(message: pb.FrameAnswer, answer: Answer, log_probabilities: bool, call: Call | None) -> None:
    if answer.outputs.shape[1]:
        message.outputs = answer.outputs.astype("<f4", copy=False).tobytes()
    else:
        message.tokens = answer.tokens.astype("<u4", copy=False).tobytes()
        if log_probabilities:
            message.log_probabilities = answer.log_probabilities.astype("<f4", copy=False).tobytes()
    message.replayed = answer.replayed
    for row in sorted(answer.errors):
        message.errors.append(pb.RowError(row=row, status=to_status(answer.errors[row], call)))
    message.SetInParent()
