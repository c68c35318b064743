"""The only place with grids and streams: a device's queue, its memory, and errors as the package has them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types
from numba.cuda.cudadrv.driver import device_memset
from numpy.typing import NDArray

from keepgate_kernels.cuda import calls
from keepgate_kernels.cuda.calls import Function
from keepgate_kernels.cuda.catalogue import Entry
from keepgate_kernels.cuda.choice import Device
from keepgate_kernels.cuda.graphs import Graphs
from keepgate_kernels.cuda.kept import keep
from keepgate_kernels.cuda.target import DYNAMIC_SHARED_BYTES, FAILURES, SHARED_CARVEOUT, driver
from keepgate_kernels.cuda.tiles import ROW_BYTES, SHAPES
from keepgate_kernels.errors import DeviceError, DeviceLostError, DeviceMemoryError, DeviceMissingError

LEAST_CAPABILITY = (8, 0)
"""Ampere: mma for bf16 and int8, and cp.async."""
OWN_SHARED_BYTES = max(shape.rows for shape in SHAPES) * ROW_BYTES + (1 << 10)
"""Room for a kernel's arrays of a fixed size, which count towards the limits of shared memory."""
OUT_OF_MEMORY = 2
"""CUDA_ERROR_OUT_OF_MEMORY."""


def as_device_error(error: Exception, task: str) -> DeviceError:
    """What a failure of the driver means: too little memory, or that the device is lost."""
    code = getattr(error, "code", None)
    if (code is not None and int(code) == OUT_OF_MEMORY) or "CUDA_ERROR_OUT_OF_MEMORY" in str(error):
        return DeviceMemoryError(
            f"{task}: the device has too little free memory; fewer slots or a smaller precision need less"
        )
    return DeviceLostError(f"{task}: the device failed ({error}); restart the process")


@contextmanager
def told(task: str) -> Iterator[None]:
    """Driver errors within are raised as DeviceError."""
    try:
        yield
    except FAILURES as error:
        raise as_device_error(error, task) from error


@functools.cache
def multiprocessors() -> int:
    """How many the current device has. Raises DeviceMissingError if there is none that can run kernels."""
    try:
        device = cuda.get_current_device()
    except Exception as error:  # the loader, the driver and numba-cuda each have errors of their own
        reason = " ".join(str(error).split()).strip(" :") or type(error).__name__
        raise DeviceMissingError(f"device cuda: there is none to use: {reason}", reason=reason) from error
    capability = tuple(device.compute_capability)
    if capability < LEAST_CAPABILITY:
        text = f"compute capability {capability[0]}.{capability[1]}, expected at least 8.0"
        raise DeviceMissingError(f"device cuda: {device.name!r} has {text}", reason=text)
    return int(device.MULTIPROCESSOR_COUNT)


@functools.cache
def most_shared_bytes() -> int:
    """Dynamic shared memory that a thread block may have on the current device."""
    return int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN) - OWN_SHARED_BYTES


@functools.cache
def limits() -> Device:
    """What shapes are chosen by, of the current device. Raises DeviceMissingError."""
    count, device = multiprocessors(), cuda.get_current_device()
    shared_bytes, cache_bytes = device.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, device.L2_CACHE_SIZE
    return Device(count, int(shared_bytes), most_shared_bytes(), int(cache_bytes))


@functools.cache
def architecture() -> str:
    """What the current device runs, such as "sm_90". Raises DeviceMissingError."""
    multiprocessors()
    major, minor = cuda.get_current_device().compute_capability
    return f"sm_{major}{minor}"


class Loaded(NamedTuple):
    """A kernel: as numba-cuda dispatches it, compiled for its one signature, and on the device."""

    kernel: Any
    compiled: Any
    function: Function


_loaded: dict[str, Loaded] = {}


def _load(entry: Entry) -> Loaded:
    """A kernel, compiled for the device and allowed to have as much shared memory as there is."""
    kernel = entry.make()
    keep(kernel, entry.name)
    compiled = kernel.compile(signature(entry.arguments))
    compiled.bind()
    handle, device = compiled._codelibrary.get_cufunc().handle, cuda.get_current_device()
    if entry.shared_bytes:
        # Not what this entry needs: one of another size may share the kernel, and the limit with it.
        driver.cuKernelSetAttribute(DYNAMIC_SHARED_BYTES, most_shared_bytes(), handle, device.id)
        # All of what shared memory and the L1 cache divide: as many thread blocks at once as were counted on.
        driver.cuKernelSetAttribute(SHARED_CARVEOUT, 100, handle, device.id)
    return Loaded(kernel, compiled, Function(handle, compiled.cooperative))


def signature(arguments: tuple[tuple[str, int], ...]) -> tuple[Any, ...]:
    """Numba's types for the arguments of an entry."""

    def kind(name: str, dimensions: int) -> Any:
        if name == "at":
            return types.UniTuple(types.int64, dimensions)
        element = getattr(types, name)
        return types.Array(element, dimensions, "C") if dimensions else element

    return tuple(kind(*argument) for argument in arguments)


class Queue:
    """A stream of its own on the current device: what is put into it happens in that order."""

    def __init__(self) -> None:
        multiprocessors()
        with told("starting on the device"):
            self.stream = cuda.stream()
            self.graphs = Graphs(self.stream)
        self._parameters, self._stream = calls.Parameters(), int(self.stream.handle)

    def enter(self) -> None:
        """Let the calling thread use the device."""
        cuda.current_context()

    def load(self, entry: Entry) -> Loaded:
        """The kernel, compiled if it was not yet."""
        loaded = _loaded.get(entry.name)
        if loaded is None:
            loaded = _loaded[entry.name] = _load(entry)
        return loaded

    def holds(self, entry: Entry, blocks: int) -> bool:
        """Whether the device can run so many thread blocks of a kernel at once, as a barrier of all needs."""
        if entry.shared_bytes > most_shared_bytes():
            return False
        compiled = self.load(entry).compiled
        return bool(compiled.max_cooperative_grid_blocks(entry.threads, entry.shared_bytes) >= blocks)

    def launch(self, entry: Entry, grid: tuple[int, int], *arguments: Any) -> None:
        """Start a kernel on a grid of thread blocks, with what `calls.Parameters` takes."""
        function, parameters = self.load(entry).function, self._parameters.put(arguments)
        calls.launch(function, grid, entry.threads, entry.shared_bytes, self._stream, parameters)

    def array(self, size: int, kind: Any) -> Any:
        """Device memory of zeros, 1-D."""
        array = cuda.device_array(max(size, 1), kind)
        self.fill_zeros(array, array.size)
        return array

    def fill_zeros(self, array: Any, count: int) -> None:
        """Start writing zeros into the first elements of device memory."""
        device_memset(array, 0, count * array.dtype.itemsize, self.stream)

    def put(self, values: NDArray[Any]) -> Any:
        """Device memory with a copy of an array."""
        array = cuda.to_device(np.ascontiguousarray(values), stream=self.stream)
        self.wait()
        return array

    def upload(self, target: Any, source: NDArray[Any], count: int) -> None:
        """Start copying the first elements of a host array, which must stay as it is until `wait`."""
        calls.upload(target, source, count, self._stream)

    def download(self, target: NDArray[Any], source: Any, first: int, count: int) -> None:
        """Start copying elements of a device array into the first of a host array."""
        calls.download(target, source, first, count, self._stream)

    def wait(self) -> None:
        """Until all is done."""
        self.stream.synchronize()


def pinned(size: int, kind: Any) -> NDArray[Any]:
    """Host memory that copies need no detour for."""
    array: NDArray[Any] = cuda.pinned_array(max(size, 1), kind)
    array[:] = 0
    return array
