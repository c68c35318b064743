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

    @property
    def free(self) -> int:
        """Slots that `allocate` can still give."""
        return self.capacity - self._never_used + len(self._released)

    def allocate(self) -> int | None:
        """A slot with a zero state, or None if all are taken."""
        if self._released:
            slot = self._released.pop()
            self.state.h[:, slot] = 0.0
            self.state.c[:, slot] = 0.0
            return slot
        if self._never_used == self.capacity:
            return None
        self._never_used += 1
        return self._never_used - 1

    def release(self, slot: int) -> None:
        """Give a slot back; its state is gone."""
        self._released.append(slot)
