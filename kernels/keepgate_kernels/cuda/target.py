"""numba-cuda and the driver's functions that it brings, which only this backend needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from keepgate_kernels.errors import DeviceMissingError

try:
    import numba_cuda  # noqa: F401  # without it `numba.cuda` is Numba's own, older target
    from cuda.bindings.driver import CUfunction_attribute, CUstreamCaptureMode
    from cuda.core._utils.cuda_utils import CUDAError
    from numba import cuda
    from numba.cuda.cudadrv.driver import CudaAPIError, driver
except ImportError as error:
    raise DeviceMissingError(
        "device cuda needs numba-cuda: install keepgate[cuda] or keepgate-kernels[cuda]",
        reason="not installed",
    ) from error

FAILURES: tuple[type[Exception], ...] = (CudaAPIError, CUDAError)
"""What numba-cuda and cuda.core raise when the driver reports an error."""
RELAXED = CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
DYNAMIC_SHARED_BYTES = CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
SHARED_CARVEOUT = CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT

# A tick of few sessions has few thread blocks; numba-cuda would warn of each.
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0

int32: Any = np.int32
"""A number that needs no more bits. Sums of Numba's have 64 unless told."""
at32: Any = np.uint32
at64: Any = np.uint64
"""An index that is not negative: for one that might be, Numba adds the length of the array."""


def device_function(function: Any) -> Any:
    """Jit a function that only kernels call; it is always put into their code."""
    return cuda.jit(device=True, forceinline=True)(function)


def bounded_kernel(function: Any, threads: int, blocks: int) -> Any:
    """A kernel whose thread blocks have so many threads, and of which a multiprocessor is to hold so many
    blocks: as many registers as that leaves are its own, and ptxas loads ahead with them."""
    return cuda.jit(launch_bounds=(threads, blocks))(function)


__all__ = [
    "DYNAMIC_SHARED_BYTES",
    "FAILURES",
    "RELAXED",
    "SHARED_CARVEOUT",
    "at32",
    "at64",
    "bounded_kernel",
    "device_function",
    "driver",
    "int32",
]
