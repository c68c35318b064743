"""How weights are rounded to a precision, on every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
LEAST_SCALE = 1e-30


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, to nearest, ties to even. Finite numbers may become infinity."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)
