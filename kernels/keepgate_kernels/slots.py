"""The state of many sessions as struct of arrays, and the free list of its slots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.spec import ModelSpec
from keepgate_kernels.weights import padded


class State(NamedTuple):
    """Hidden and cell state, float32: h [L, S, padded P] and c [L, S, padded H or 0]."""

    h: NDArray[np.float32]
    c: NDArray[np.float32]


class Slots:
    """State for `capacity` sessions. Memory is touched, and so taken, only as slots are used."""

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: got {capacity}, expected at least 1")
        self.capacity = capacity
        layers = spec.layers
        h_width = max(padded(layer.output_size) for layer in layers)
        c_width = max(padded(layer.cell_state_size) for layer in layers)
        self.state = State(
            np.zeros((len(layers), capacity, h_width), np.float32),
            np.zeros((len(layers), capacity, c_width), np.float32),
        )
        self._never_used = 0
        self._released: list[int] = []
        self._shared: dict[int, int] = {}  # how many more users than one a slot has
        self._widths = [(layer.output_size, layer.cell_state_size) for layer in layers]
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
            self.state.h[:, slot] = 0.0
            self.state.c[:, slot] = 0.0
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
        self.state.h[:, own] = self.state.h[:, slot]
        self.state.c[:, own] = self.state.c[:, slot]
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

    def read(self, slot: int) -> bytes:
        """A slot's state: for every layer h [P] and then c [H or 0], float32, little-endian."""
        h, c = self.state
        parts: list[NDArray[np.float32]] = []
        for index, (p, n) in enumerate(self._widths):
            parts += h[index, slot, :p], c[index, slot, :n]
        return np.concatenate(parts).astype("<f4", copy=False).tobytes()

    def read_many(self, slots: NDArray[np.int64]) -> list[bytes]:
        """As `read`, for each of the slots [B]."""
        h, c = self.state
        parts: list[NDArray[np.float32]] = []
        for index, (p, n) in enumerate(self._widths):
            parts += h[index, slots, :p], c[index, slots, :n]
        packed = np.concatenate(parts, axis=1).astype("<f4", copy=False).tobytes()
        size = self.state_bytes
        return [packed[first : first + size] for first in range(0, len(packed), size)]

    def write(self, slot: int, state: bytes) -> None:
        """Set a slot to a state that `read` returned. Raises ValueError if its size is another model's."""
        if len(state) != self.state_bytes:
            raise ValueError(f"state: got {len(state)} bytes, expected {self.state_bytes}")
        numbers = np.frombuffer(state, "<f4")
        h, c = self.state
        first = 0
        for index, (p, n) in enumerate(self._widths):
            h[index, slot, :p] = numbers[first : first + p]
            c[index, slot, :n] = numbers[first + p : first + p + n]
            first += p + n

    def _take(self) -> int | None:
        if self._released:
            return self._released.pop()
        if self._never_used == self.capacity:
            return None
        self._never_used += 1
        return self._never_used - 1
