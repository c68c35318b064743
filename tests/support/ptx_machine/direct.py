"""Kernels on the machine without a driver: an error ends the launch and nothing else."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from support.ptx_machine import LIBRARY
from support.ptx_machine.translate import compile_module


class MachineError(Exception):
    """What the machine says of a launch."""


class _Extent(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint32) for axis in "xyz"]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("grid", _Extent),
        ("block", _Extent),
        ("dynamic_shared", ctypes.c_uint32),
        ("cooperative", ctypes.c_int),
        ("parameters", ctypes.c_void_p),
    ]


class Machine:
    """folder: that of the built library."""

    def __init__(self, folder: Path) -> None:
        self._library = ctypes.CDLL(str(folder / LIBRARY), mode=ctypes.RTLD_GLOBAL)
        self._library.machine_allocate.restype = ctypes.c_uint64
        self._library.machine_allocate.argtypes = [ctypes.c_uint64]

    def kernel(self, code: str) -> ctypes.c_void_p:
        """The first kernel of a module in PTX."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "kernels.so"
            compile_module(code, target)
            module = ctypes.CDLL(str(target))
        return ctypes.c_void_p.in_dll(module, "kernels")

    def seed(self, seed: int) -> None:
        """Of the order of threads."""
        self._library.machine_seed(ctypes.c_uint64(seed))

    def put(self, array: NDArray[Any]) -> int:
        """The address of a copy in device memory."""
        address = int(self._library.machine_allocate(array.nbytes))
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        return address

    def launch(
        self,
        kernel: ctypes.c_void_p,
        grid: int,
        block: int,
        *arguments: NDArray[Any] | int,
        shared: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Run a kernel of Numba's. Arrays are copied to the device, and back. Raises MachineError."""
        words: list[int] = []
        places: list[tuple[int, NDArray[Any]]] = []
        for argument in arguments:
            if isinstance(argument, int):
                words.append(argument)
                continue
            places.append((self.put(argument), argument))
            words += [0, 0, argument.size, argument.itemsize, places[-1][0], *argument.shape]
            words += argument.strides
        parameters = (ctypes.c_uint64 * len(words))(*words)
        launch = _Launch(
            kernel,
            _Extent(grid, 1, 1),
            _Extent(block, 1, 1),
            shared,
            cooperative,
            ctypes.addressof(parameters),
        )
        failed = self._library.machine_launch(ctypes.byref(launch))
        for address, array in places:
            ctypes.memmove(array.ctypes.data, address, array.nbytes)
            self._library.machine_free(ctypes.c_uint64(address))
        if failed:
            raise MachineError(self._error())

    def _error(self) -> str:
        text = (ctypes.c_char * 1024).in_dll(self._library, "machine_error")
        return bytes(text).split(b"\0")[0].decode()
