"""float32 numbers to those of a precision, as rows hold them."""

from __future__ import annotations

from typing import Any

import numpy as np

from keepgate_kernels import rounding
from keepgate_kernels.cuda.cells import clamp
from keepgate_kernels.cuda.ptx import as_word
from keepgate_kernels.cuda.target import device_function

LEVELS = np.float32(rounding.LEVELS)
LEAST = np.float32(rounding.LEAST_SCALE)
"""Scale of a row of zeros, times 127: any positive number whose reciprocal is finite."""
BOUNDED_SCALE = np.float32(1 / rounding.LEVELS)
"""Of a row within [-1, 1]."""
_MAGIC = np.float32(12582912.0)
"""1.5 * 2**23: added to a small float32, leaves its nearest integer in the low bits of the mantissa."""
_MAGIC_BITS = np.int64(0x4B400000)
_ROUND, _ONE, _SIXTEEN = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)


def make_rounded(precision: str) -> Any:
    """rounded(x, inverse): a float32 as rows of that precision hold it. inverse: 1 / scale, for int8."""

    @device_function
    def as_it_is(x: Any, inverse: Any) -> Any:
        return x

    @device_function
    def to_bf16(x: Any, inverse: Any) -> Any:
        """To nearest, ties to even."""
        bits = as_word(x)
        return np.uint16((bits + _ROUND + ((bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)

    @device_function
    def to_int8(x: Any, inverse: Any) -> Any:
        """To nearest, ties to even, from -127 to 127."""
        return np.int8(np.int64(as_word(clamp(x * inverse, LEVELS) + _MAGIC)) - _MAGIC_BITS)

    return {"fp32": as_it_is, "bf16": to_bf16, "int8": to_int8}[precision]
