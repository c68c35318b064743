"""What became of a frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
