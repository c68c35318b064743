"""How much the server has taken on: inputs that were admitted and are not applied yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keepgate.errors import StepsExhaustedError


class Pending:
    """limit: inputs over all sessions."""

    __slots__ = ("_limit", "count")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0

    def check(self, more: int) -> None:
        """Raises StepsExhaustedError if `more` inputs are too many."""
        if self.count + more > self._limit:
            raise StepsExhaustedError(self.count, more, self._limit)

    def add(self, more: int) -> None:
        """So many more are pending, till `drop`."""
        self.count += more

    def drop(self, less: int) -> None:
        """So many are not any more."""
        self.count -= less

    @contextmanager
    def reserved(self, more: int) -> Iterator[None]:
        """So many more are pending within. Raises StepsExhaustedError."""
        self.check(more)
        self.add(more)
        try:
            yield
        finally:
            self.drop(more)
