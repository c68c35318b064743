"""The state of many sessions in the host's memory, as struct of arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.slots import Slots
from keepgate_kernels.spec import ModelSpec
from keepgate_kernels.weights import padded


class State(NamedTuple):
    """Hidden and cell state, float32: h [L, S, padded P] and c [L, S, padded H or 0]."""

    h: NDArray[np.float32]
    c: NDArray[np.float32]


class CpuSlots(Slots):
    """Memory is touched, and so taken, only as slots are used."""

    def __init__(self, spec: ModelSpec, capacity: int) -> None:
        super().__init__(spec, capacity)
        layers = spec.layers
        h_width = max(padded(layer.output_size) for layer in layers)
        c_width = max(padded(layer.cell_state_size) for layer in layers)
        self.state = State(
            np.zeros((len(layers), capacity, h_width), np.float32),
            np.zeros((len(layers), capacity, c_width), np.float32),
        )
        self._widths = [(layer.output_size, layer.cell_state_size) for layer in layers]

    def read(self, slot: int) -> bytes:
        """See `Slots.read`."""
        h, c = self.state
        parts: list[NDArray[np.float32]] = []
        for index, (p, n) in enumerate(self._widths):
            parts += h[index, slot, :p], c[index, slot, :n]
        return np.concatenate(parts).astype("<f4", copy=False).tobytes()

    def read_many(self, slots: NDArray[np.int64]) -> list[bytes]:
        """See `Slots.read_many`."""
        h, c = self.state
        parts: list[NDArray[np.float32]] = []
        for index, (p, n) in enumerate(self._widths):
            parts += h[index, slots, :p], c[index, slots, :n]
        packed = np.concatenate(parts, axis=1).astype("<f4", copy=False).tobytes()
        size = self.state_bytes
        return [packed[first : first + size] for first in range(0, len(packed), size)]

    def write(self, slot: int, state: bytes) -> None:
        """See `Slots.write`."""
        self._check_size(state)
        numbers = np.frombuffer(state, "<f4")
        h, c = self.state
        first = 0
        for index, (p, n) in enumerate(self._widths):
            h[index, slot, :p] = numbers[first : first + p]
            c[index, slot, :n] = numbers[first + p : first + p + n]
            first += p + n

    def _clear(self, slot: int) -> None:
        self.state.h[:, slot] = 0.0
        self.state.c[:, slot] = 0.0

    def _copy(self, source: int, target: int) -> None:
        self.state.h[:, target] = self.state.h[:, source]
        self.state.c[:, target] = self.state.c[:, source]
