"""What became of a frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from keepgate.engine.frame import Frame
from keepgate.engine.job import Prediction
from keepgate.errors import RequestError


class Answer:
    """tokens: uint32 [B], log_probabilities: float32 [B], outputs: float32 [B, N]; zeros in rows with an
    error.

    errors: by row. replayed: how many rows had been applied before. It comes in parts, and is whole at last.
    """

    def __init__(self, rows: int, output_size: int) -> None:
        self.tokens = np.zeros(rows, np.uint32)
        self.log_probabilities = np.zeros(rows, np.float32)
        self.outputs = np.zeros((rows, output_size), np.float32)
        self.errors: dict[int, RequestError] = {}
        self.replayed = 0
        self._parts = 1
        self._callback: Callable[[], None] | None = None

    def take(self, frame: Frame, places: NDArray[np.intp] | None) -> None:
        """What was computed for the rows at some places, or for all."""
        if frame.outputs is not None:
            if places is None:
                self.outputs = frame.outputs
            else:
                self.outputs[places] = frame.outputs
        elif frame.tokens is not None and frame.log_probabilities is not None:
            if places is None:
                self.tokens, self.log_probabilities = frame.tokens, frame.log_probabilities
            else:
                self.tokens[places] = frame.tokens
                self.log_probabilities[places] = frame.log_probabilities

    def give(self, row: int, prediction: Prediction) -> None:
        """What an ordinary step says."""
        self.tokens[row] = prediction.token
        self.log_probabilities[row] = prediction.log_probability
        if prediction.outputs is not None:
            self.outputs[row] = prediction.outputs

    def refuse(self, row: int, error: RequestError) -> None:
        """The row was not applied, or its session is lost."""
        self.errors[row] = error
        self.tokens[row] = 0
        self.log_probabilities[row] = 0
        self.outputs[row] = 0

    def expect(self) -> None:
        """One more part is to come."""
        self._parts += 1

    def arrived(self) -> None:
        """A part of what was expected is here."""
        self._parts -= 1
        if not self._parts and self._callback is not None:
            self._callback()

    def when_whole(self, callback: Callable[[], None]) -> None:
        """Call back when all is here: at once if it is."""
        if self._parts:
            self._callback = callback
        else:
            callback()
