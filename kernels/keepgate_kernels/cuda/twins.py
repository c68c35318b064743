"""What `ptx` holds, in Python, for numba-cuda's simulator, which runs no PTX.

A twin of `mma` collects the fragments of the 32 lanes of its warp and puts the tile together by the layouts
of PTX ISA 8, 9.7.14: so that a fragment in the wrong lane or word gives a wrong sum. Where a warp meets,
the twin has the whole block meet, so all warps of a block must come by equally often.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

WARP = 32


WORD = 1
"""As `ptx.WORD`, but an address is an index."""


def shared_address(shared: Any, at: Any) -> Any:
    """As `ptx.shared_address`."""
    return at


def address_of(source: Any, at: Any) -> Any:
    """As `ptx.address_of`, but the index is the address."""
    return at


def moved_on(source: Any, address: Any, elements: Any) -> Any:
    """As `ptx.moved_on`."""
    return address + elements


@cuda.jit(device=True)
def copy16(shared: Any, to: Any, source: Any, address: Any, size: Any) -> None:
    """As `ptx.copy16`, at once. Element indices must be those of whole 16 bytes, as the processor wants."""
    elements = 16 // source.dtype.itemsize
    if address % elements or to % 4:
        raise ValueError(f"a copy to word {to} from element {address} is not aligned")
    words = np.zeros(4, np.uint32)
    if size:
        words.view(source.dtype)[:] = source[address : address + elements]
    for index in range(4):
        shared[to + index] = words[index]


def commit() -> None:
    """Copies are made at once: there is nothing to do."""


def waiting(groups: int) -> Any:
    """As `ptx.waiting`: what it waits for has happened."""
    return commit


def load4(shared: Any, address: Any) -> tuple[Any, ...]:
    """As `ptx.load4`."""
    if address % 4:
        raise ValueError(f"four words from word {address} are not aligned")
    return tuple(shared[address : address + 4])


def load2(shared: Any, address: Any) -> tuple[Any, ...]:
    """As `ptx.load2`."""
    if address % 2:
        raise ValueError(f"two words from word {address} are not aligned")
    return tuple(shared[address : address + 2])


def store2(shared: Any, address: Any, first: Any, second: Any) -> None:
    """As `ptx.store2`."""
    if address % 2:
        raise ValueError(f"two words from word {address} are not aligned")
    shared[address], shared[address + 1] = first, second


def as_float(word: Any) -> Any:
    """As `ptx.as_float`."""
    return np.float32(struct.unpack("<f", struct.pack("<I", int(word)))[0])


def as_word(number: Any) -> Any:
    """As `ptx.as_word`."""
    return np.float32(number).view(np.uint32)


class _Warp:
    """fragments: [lane, word], a0 to a3, b0, b1. product: of the tile [16, 8], once a lane has made it."""

    def __init__(self) -> None:
        self.fragments = np.zeros((WARP, 6), np.uint32)
        self.product: NDArray[np.float64] | None = None


_warps: dict[tuple[int, int, int], _Warp] = {}
"""By block, and number in it."""

_LANES, _NUMBERS = np.arange(WARP), {n: np.arange(n) for n in (2, 4)}
_GROUPS, _PLACES = _LANES // 4, _LANES % 4


def _product(fragments: NDArray[np.uint32], widen: Any) -> NDArray[np.float64]:
    """A [16, k] B [k, 8] of a warp's fragments."""
    numbers = widen(fragments).reshape(WARP, 6, -1)
    n = numbers.shape[2]
    a, b = np.empty((16, 8 * n)), np.empty((8 * n, 8))
    k = (n * _PLACES)[:, None] + _NUMBERS[n]
    for word in range(4):
        a[(_GROUPS + 8 * (word % 2))[:, None], k + 4 * n * (word // 2)] = numbers[:, word]
    for word in range(2):
        b[k + 4 * n * word, _GROUPS[:, None]] = numbers[:, 4 + word]
    product: NDArray[np.float64] = a @ b
    return product


def _bf16(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    return (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _int8(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    return words.view(np.int8).astype(np.float64)


def _mma(widen: Any, result: Any) -> Any:
    @cuda.jit(device=True)
    def mma(*args: Any) -> tuple[Any, ...]:
        thread = cuda.threadIdx.x
        lane = thread % WARP
        warp = _warps.setdefault((cuda.blockIdx.x, cuda.blockIdx.y, thread // WARP), _Warp())
        warp.product = None
        warp.fragments[lane] = args[4:]
        cuda.syncthreads()
        if warp.product is None:
            warp.product = _product(warp.fragments, widen)
        group, column = lane // 4, 2 * (lane % 4)
        sums = (*warp.product[group, column : column + 2], *warp.product[group + 8, column : column + 2])
        cuda.syncthreads()
        return tuple(result(total + start) for total, start in zip(sums, args[:4], strict=True))

    return mma


mma_bf16, mma_int8 = _mma(_bf16, np.float32), _mma(_int8, np.int32)
