"""States of slots as arrays, by what every backend offers: reading and writing their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keepgate_kernels import ModelSpec
from keepgate_kernels.slots import Slots
from numpy.typing import NDArray

LayerState = tuple[NDArray[np.float32], NDArray[np.float32]]


def fill(slots: Slots, slot: int, value: float) -> None:
    """Set all of a slot's h and c to one number."""
    slots.write(slot, np.full(slots.state_bytes // 4, value, "<f4").tobytes())


def put(slots: Slots, slot: int, state: Sequence[tuple[Any, Any]]) -> None:
    """Set a slot to (h [P], c [H or 0]) of every layer."""
    slots.write(slot, b"".join(np.asarray(part, "<f4").tobytes() for pair in state for part in pair))


def get(spec: ModelSpec, slots: Slots, slot: int) -> list[LayerState]:
    """(h [P], c [H or 0]) of every layer, float32."""
    numbers = np.frombuffer(slots.read(slot), "<f4")
    state, first = [], 0
    for layer in spec.layers:
        middle = first + layer.output_size
        end = middle + layer.cell_state_size
        state.append((numbers[first:middle], numbers[middle:end]))
        first = end
    return state
