"""Launches and copies as the driver takes them.

Each of numba-cuda's own takes a hundred microseconds and more of the host, and a tick of many launches would
wait for that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda.target import driver

MOST_WORDS = 128
"""Parameters of a kernel, of 8 bytes each."""


class Tail(NamedTuple):
    """A 1-D device array from an element on."""

    array: Any
    first: int


class Function(NamedTuple):
    """A kernel on the device: its handle, and whether all of its thread blocks must be there at once."""

    handle: Any
    cooperative: bool


class Parameters:
    """Memory from which the driver reads what a kernel is launched with. One launch at a time."""

    def __init__(self) -> None:
        self._words = np.zeros(MOST_WORDS, np.int64)
        self._places = self._words.ctypes.data + 8 * np.arange(MOST_WORDS, dtype=np.int64)
        self._address = self._places.ctypes.data

    def put(self, arguments: tuple[Any, ...]) -> int:
        """The address of pointers to the parameters. arguments: device arrays, tails of them, int64 numbers,
        tuples of such."""
        words: list[int] = []
        for argument in arguments:
            if isinstance(argument, Tail):
                words += _words_of(argument.array, argument.first)
            elif isinstance(argument, int):
                words.append(argument)
            elif isinstance(argument, tuple):
                words += argument
            else:
                words += _words_of(argument, 0)
        self._words[: len(words)] = words
        return self._address


def _words_of(array: Any, first: int) -> tuple[int, ...]:
    """An array as Numba's kernels take it: two pointers that a device has no use for, size, bytes of an
    element, address, shape, strides."""
    itemsize = array.dtype.itemsize
    address = array.device_ctypes_pointer.value + first * itemsize
    if array.ndim == 1:
        size = array.size - first
        return 0, 0, size, itemsize, address, size, itemsize
    return 0, 0, array.size, itemsize, address, *array.shape, *array.strides


def launch(
    function: Function, grid: tuple[int, int], threads: int, shared_bytes: int, stream: int, parameters: int
) -> None:
    """Start a kernel."""
    extent = (*grid, 1, threads, 1, 1, shared_bytes, stream, parameters)
    if function.cooperative:
        driver.cuLaunchCooperativeKernel(function.handle, *extent)
    else:
        driver.cuLaunchKernel(function.handle, *extent, 0)


def upload(target: Any, source: NDArray[Any], count: int, stream: int) -> None:
    """Start copying the first elements of pinned memory into those of a device array."""
    size = count * source.itemsize
    driver.cuMemcpyHtoDAsync(target.device_ctypes_pointer.value, source.ctypes.data, size, stream)


def download(target: NDArray[Any], source: Any, first: int, count: int, stream: int) -> None:
    """Start copying elements of a device array into the first of pinned memory."""
    address = source.device_ctypes_pointer.value + first * target.itemsize
    driver.cuMemcpyDtoHAsync(target.ctypes.data, address, count * target.itemsize, stream)
