"""Frames between NumPy and protocol buffers: one input for each of many sessions. No I/O.

B is the number of a frame's rows, K the model's input size, N its output size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np
from keepgate_protos.v1 import sequences_pb2
from numpy.typing import ArrayLike, NDArray

from keepgate_client._details import FieldViolation
from keepgate_client._futures import F
from keepgate_client.errors import InvalidArgumentError, KeepgateError
from keepgate_client.types import FloatArray

FIELD = re.compile(r"^(frame\.\w+)\[(\d+)\]")
"""A row of a column, as errors name it."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What a step of a group answers: columns with a row for each row that was sent, in that order.

    tokens: uint32 [B], drawn as the group says. None for feature models.
    log_probabilities: float32 [B], natural, of those tokens under the model itself. None unless asked for.
    outputs: float32 [B, N], the linear head's values. None for token models.
    errors: by row of the frame, why it was refused. Such a row has zeros in the columns; all others were
        applied. If every row has an error, the columns may be None.
    replayed: how many rows had been applied before and are answered once more.
    """

    tokens: NDArray[np.uint32] | None
    log_probabilities: FloatArray | None
    outputs: FloatArray | None
    errors: Mapping[int, KeepgateError] = field(default_factory=dict)
    replayed: int = 0


@dataclass(frozen=True, slots=True)
class FrameInputs:
    """One input for each row: uint32 [B] tokens, or float32 [B, K] features."""

    values: NDArray[Any]

    @classmethod
    def of(cls, tokens: ArrayLike | None, features: ArrayLike | None, count: int) -> FrameInputs:
        """Exactly one of them, for `count` rows. Raises TypeError, ValueError."""
        if (tokens is None) == (features is None):
            raise TypeError("expected exactly one of tokens and features")
        if tokens is not None:
            return cls(_tokens(np.asarray(tokens), count))
        array = np.asarray(features)
        if array.dtype.kind not in "fiu" or array.ndim != 2 or len(array) != count:
            got = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"features: got {got}, expected numbers [{count}, K], a vector for each row")
        return cls(np.array(array, np.float32, order="C"))

    def fill(self, message: sequences_pb2.Frame, places: NDArray[np.int64] | None) -> None:
        """Put the inputs of some rows (None: all) into a message."""
        values = self.values if places is None else self.values[places]
        if values.ndim == 1:
            message.tokens = values.astype("<u4", copy=False).tobytes()
        else:
            message.features = values.astype("<f4", copy=False).tobytes()


def _tokens(array: NDArray[Any], count: int) -> NDArray[np.uint32]:
    if array.dtype.kind not in "iu" or array.shape != (count,):
        got = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"tokens: got {got}, expected integers [{count}], one for each row")
    if array.dtype != np.uint32:
        wrong = (array < 0) | (array >= 1 << 32)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"tokens[{row}]: got {array[row]}, expected an integer in [0, 2**32)")
    return array.astype(np.uint32)  # a copy: the caller may reuse what it gave


NO_INPUTS = FrameInputs(np.zeros(0, np.uint32))
"""Of a frame without rows, which is answered when the sessions are bound."""


def row_indices(rows: ArrayLike | None) -> NDArray[np.int64] | None:
    """Rows of a group as given by a user: int64 [B]. Raises ValueError."""
    if rows is None:
        return None
    array = np.asarray(rows)
    if array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
        got = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"rows: got {got}, expected integers [B], at least one")
    return array.astype(np.int64)


@dataclass(slots=True, eq=False)
class Work(Generic[F]):
    """A frame from submission to answer.

    rows: those of the group, None for all. left: how many are neither answered nor refused; good: how many
    are answered. answer: what was answered to some of them. whole: the error of a whole message.
    """

    rows: NDArray[np.int64] | None
    count: int
    inputs: FrameInputs
    log_probabilities: bool
    future: F
    deadline: float
    left: int
    answer: Frame | None = None
    errors: dict[int, KeepgateError] = field(default_factory=dict)
    whole: KeepgateError | None = None
    good: int = 0
    replayed: int = 0

    def merge(self, places: NDArray[np.int64], good: NDArray[np.bool_], part: Frame) -> None:
        """Take over what was answered to some of the rows."""
        if self.answer is None:
            columns = (part.tokens, part.log_probabilities, part.outputs)
            tokens, logs, outputs = (
                None if column is None else np.zeros((self.count, *column.shape[1:]), column.dtype)
                for column in columns
            )
            self.answer = Frame(tokens, logs, outputs)
        for name in ("tokens", "log_probabilities", "outputs"):
            column, whole = getattr(part, name), getattr(self.answer, name)
            if column is not None:
                whole[places[good]] = column[good]
        self.good += int(np.count_nonzero(good))
        self.replayed += part.replayed

    def outcome(self) -> Frame | KeepgateError:
        """What the future gets, when nothing is left."""
        if self.whole is not None and not self.good:
            return self.whole
        answer = self.answer or Frame(None, None, None)
        errors = dict(sorted(self.errors.items()))
        return Frame(answer.tokens, answer.log_probabilities, answer.outputs, errors, self.replayed)


def renumbered(error: KeepgateError, places: NDArray[np.int64] | None) -> KeepgateError:
    """The error of a message with some rows of a frame (None: all); the rows that its fields name are then
    counted in the frame."""
    if places is None or not isinstance(error, InvalidArgumentError):
        return error

    def count(match: re.Match[str]) -> str:
        return f"{match[1]}[{places[int(match[2])]}]"

    violations = tuple(FieldViolation(FIELD.sub(count, v.field), v.description) for v in error.violations)
    return InvalidArgumentError(
        FIELD.sub(count, error.message),
        code=error.code,
        reason=error.reason,
        metadata=error.metadata,
        details=replace(error.details, violations=violations),
    )


def frame_from_proto(answer: sequences_pb2.FrameAnswer, rows: int) -> Frame:
    """The answer to all rows of a message, less its errors."""
    outputs = answer.outputs
    values = np.frombuffer(outputs, "<f4").astype(np.float32).reshape(rows, -1) if outputs else None
    tokens = answer.tokens
    logs = answer.log_probabilities
    return Frame(
        np.frombuffer(tokens, "<u4").astype(np.uint32) if tokens else None,
        np.frombuffer(logs, "<f4").astype(np.float32) if logs else None,
        values,
        {},
        answer.replayed,
    )
