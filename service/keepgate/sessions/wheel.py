"""Deadlines of many items that move all the time, swept in O(1) amortised. Pure.

An item lies in the bucket of a deadline it had when it was last looked at. Moving a deadline later
costs nothing: only when the old bucket comes due is the item looked at and put where it belongs
now. So an item is handled at most once per bucket that passes, however often its deadline moved.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

RESOLUTION = 1.0
"""Seconds a bucket covers."""


class Wheel(Generic[T]):
    """`deadline(item)` tells an item's present deadline, in the seconds of the caller's clock."""

    def __init__(self, deadline: Callable[[T], float], resolution: float = RESOLUTION) -> None:
        self._deadline = deadline
        self._resolution = resolution
        self._buckets: dict[int, dict[T, None]] = {}
        self._bucket_of: dict[T, int] = {}
        self._next: int | None = None

    def __len__(self) -> int:
        return len(self._bucket_of)

    def add(self, item: T) -> None:
        self._put(item, self._bucket(self._deadline(item)))

    def remove(self, item: T) -> None:
        """Forget an item. Raises KeyError if it is not here."""
        number = self._bucket_of.pop(item)
        bucket = self._buckets[number]
        del bucket[item]
        if not bucket:
            del self._buckets[number]

    def due(self, now: float) -> list[T]:
        """Take out the items whose deadline is at or before `now`."""
        if self._next is None:
            return []
        current = self._bucket(now)
        taken: list[T] = []
        for number in range(self._next, current + 1):
            for item in self._buckets.pop(number, ()):
                del self._bucket_of[item]
                if self._deadline(item) <= now:
                    taken.append(item)
                else:
                    self._put(item, self._bucket(self._deadline(item)))
        self._next = max(self._next, current)  # the current bucket may hold later deadlines
        return taken

    def _bucket(self, deadline: float) -> int:
        return int(deadline // self._resolution)

    def _put(self, item: T, number: int) -> None:
        self._next = number if self._next is None else min(self._next, number)
        self._buckets.setdefault(number, {})[item] = None
        self._bucket_of[item] = number
