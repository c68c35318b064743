"""A StreamFrames call that is written and read by turns, with columns as arrays."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keepgate_protos.v1 import sequences_pb2 as pb
from numpy.typing import NDArray

from support.wire import DEADLINE, Failure, Wire, take_apart

UNBOUND = 2**64 - 1


@dataclass
class Row:
    """What came of one row: its token and log-probability, or outputs, or an error."""

    token: int = 0
    log_probability: float = 0.0
    outputs: tuple[float, ...] = ()
    error: Failure | None = None


@dataclass
class Rows:
    rows: list[Row] = field(default_factory=list)
    replayed: int = 0


class OpenFrames:
    """outputs: how many a feature model has; 0 for a token model."""

    def __init__(self, wire: Wire, outputs: int = 0) -> None:
        self._requests: queue.SimpleQueue[pb.FramesRequest | None] = queue.SimpleQueue()
        self._sent = 0
        self._outputs = outputs
        self.call = wire.sequences.StreamFrames(self._written(), timeout=DEADLINE)

    def _written(self) -> Iterator[pb.FramesRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def send(self, **fields: Any) -> int:
        """The request's id."""
        self._sent += 1
        self._requests.put(pb.FramesRequest(request_id=self._sent, **fields))
        return self._sent

    def read(self) -> pb.FramesResponse:
        answer: pb.FramesResponse = next(self.call)
        return answer

    def ask(self, **fields: Any) -> pb.FramesResponse:
        number = self.send(**fields)
        answer = self.read()
        assert answer.request_id == number
        return answer

    def bind(self, sessions: Sequence[str], **fields: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Handles and positions of sessions that can all be bound."""
        answer = self.ask(bind=pb.Bind(session_ids=sessions, **fields))
        assert answer.WhichOneof("result") == "bound", answer
        assert not answer.bound.errors, answer
        return np.frombuffer(answer.bound.handles, "<u8"), np.frombuffer(answer.bound.positions, "<u8")

    def post(self, handles: Any, positions: Any, inputs: Any) -> int:
        """Send a frame; the request's id."""
        return self.send(frame=self.frame(handles, positions, inputs))

    def step(self, handles: Any, positions: Any, inputs: Any) -> Rows:
        """A frame's answer, row by row."""
        answer = self.ask(frame=self.frame(handles, positions, inputs))
        assert answer.WhichOneof("result") == "frame", answer
        return self.rows(answer.frame, len(np.atleast_1d(handles)))

    def frame(self, handles: Any, positions: Any, inputs: Any) -> pb.Frame:
        handles = np.atleast_1d(handles)
        frame = pb.Frame(
            handles=np.asarray(handles, "<u8").tobytes(),
            positions=np.broadcast_to(np.asarray(positions, "<u8"), handles.shape).tobytes(),
            log_probabilities=not self._outputs,
        )
        if self._outputs:
            frame.features = np.asarray(inputs, "<f4").tobytes()
        else:
            frame.tokens = np.asarray(inputs, "<u4").tobytes()
        return frame

    def rows(self, answer: pb.FrameAnswer, count: int) -> Rows:
        if self._outputs:
            outputs = np.frombuffer(answer.outputs, "<f4").reshape(count, self._outputs)
            rows = [Row(outputs=tuple(row)) for row in outputs.tolist()]
        else:
            tokens = np.frombuffer(answer.tokens, "<u4").tolist()
            values = np.frombuffer(answer.log_probabilities, "<f4").tolist()
            rows = [Row(token, value) for token, value in zip(tokens, values, strict=True)]
        for error in answer.errors:
            rows[error.row].error = take_apart(error.status)
        return Rows(rows, answer.replayed)

    def finish(self) -> list[pb.FramesResponse]:
        """Say that nothing more comes; the answers that were due."""
        self._requests.put(None)
        return list(self.call)


def row_of(answer: pb.StepResponse) -> Row:
    """A step's answer as a frame has it."""
    prediction = answer.prediction
    return Row(prediction.token, prediction.log_probability, tuple(prediction.outputs))
