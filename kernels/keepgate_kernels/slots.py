"""The slots that hold the states of many sessions: the free list, and what a backend does with their
memory."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.spec import ModelSpec


class Slots(ABC):
    """State for `capacity` sessions, on a backend's device. Raises ValueError unless capacity is at least
    1."""

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: got {capacity}, expected at least 1")
        self.capacity = capacity
        self._never_used = 0
        self._released: list[int] = []
        self._shared: dict[int, int] = {}  # how many more users than one a slot has
        self.state_bytes = spec.state_bytes

    @property
    def free(self) -> int:
        """Slots that `allocate` can still give."""
        return self.capacity - self._never_used + len(self._released)

    def allocate(self) -> int | None:
        """A slot with a zero state, or None if all are taken."""
        fresh = not self._released
        slot = self._take()
        if slot is not None and not fresh:
            self._clear(slot)
        return slot

    def share(self, slot: int) -> int:
        """Let one more user have a slot: it takes one more `release`, or `separate`, to be free."""
        self._shared[slot] = self._shared.get(slot, 0) + 1
        return slot

    def is_shared(self, slot: int) -> bool:
        """Whether someone else has the slot too, so that its state must not be changed."""
        return slot in self._shared

    def separate(self, slot: int) -> int | None:
        """Trade one's part of a shared slot for a slot with a copy of its state; None if all are taken."""
        own = self._take()
        if own is None:
            return None
        self._copy(slot, own)
        self.release(slot)
        return own

    def release(self, slot: int) -> bool:
        """Give a slot back. If nobody shares it, its state is gone and True is returned."""
        others = self._shared.pop(slot, 0)
        if others > 1:
            self._shared[slot] = others - 1
        if others:
            return False
        self._released.append(slot)
        return True

    @abstractmethod
    def read(self, slot: int) -> bytes:
        """A slot's state: for every layer h [P] and then c [H or 0], float32, little-endian."""

    @abstractmethod
    def read_many(self, slots: NDArray[np.int64]) -> list[bytes]:
        """As `read`, for each of the slots [B]."""

    @abstractmethod
    def write(self, slot: int, state: bytes) -> None:
        """Set a slot to a state that `read` returned. Raises ValueError if its size is another model's."""

    @abstractmethod
    def _clear(self, slot: int) -> None:
        """Make a slot's state zero."""

    @abstractmethod
    def _copy(self, source: int, target: int) -> None:
        """Give one slot the state of another."""

    def _check_size(self, state: bytes) -> None:
        if len(state) != self.state_bytes:
            raise ValueError(f"state: got {len(state)} bytes, expected {self.state_bytes}")

    def _take(self) -> int | None:
        if self._released:
            return self._released.pop()
        if self._never_used == self.capacity:
            return None
        self._never_used += 1
        return self._never_used - 1
