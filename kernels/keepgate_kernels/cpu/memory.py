"""Arrays in jitted code from addresses.

Numba takes about 0.15 us to unbox each array it is called with, as long as a small model's whole step may
take. So a kernel is called with a few records of addresses, and makes its arrays of them.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.extending import intrinsic
from numpy.typing import NDArray

from keepgate_kernels.jit import part

LINE = 64


@intrinsic
def _pointer(context, address):
    def generate(_context, builder, _signature, values):
        return builder.inttoptr(values[0], ir.PointerType())

    return types.voidptr(types.intp), generate


@part(inline=True)
def int64s(address, count):
    """int64 [count] at an address."""
    return carray(_pointer(address), (count,), np.int64)


@part(inline=True)
def uint32s(address, count):
    """uint32 [count] at an address."""
    return carray(_pointer(address), (count,), np.uint32)


@part(inline=True)
def float32s(address, count):
    """float32 [count] at an address."""
    return carray(_pointer(address), (count,), np.float32)


@part(inline=True)
def records(address, count, dtype):
    """Records [count] at an address."""
    return carray(_pointer(address), (count,), dtype)


def address_of(array: NDArray[np.generic]) -> int:
    """Where an array's first element lies. The caller keeps the array alive."""
    address: int = array.__array_interface__["data"][0]
    return address


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes that start at a cache line."""
    memory = np.zeros(size + LINE, np.uint8)
    first = -address_of(memory) % LINE
    return memory[first : first + size]
