"""numba-cuda, which only this backend needs, and whether it is its simulator that will run the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from keepgate_kernels.errors import DeviceMissingError

try:
    import numba_cuda  # noqa: F401  # without it `numba.cuda` is Numba's own, older target
    from numba import cuda
except ImportError as error:
    raise DeviceMissingError(
        "device cuda needs numba-cuda: install keepgate[cuda] or keepgate-kernels[cuda]",
        reason="not installed",
    ) from error

SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
"""Whether NUMBA_ENABLE_CUDASIM is set: kernels run in Python, one instruction of one thread after the
other."""

int32: Any = int if SIMULATED else np.int32
"""A number that needs no more bits. Sums of Numba's have 64 unless told; numpy's own are slow to simulate."""
at32: Any = int if SIMULATED else np.uint32
at64: Any = int if SIMULATED else np.uint64
"""An index that is not negative: for one that might be, Numba adds the length of the array."""


def device_function(function: Any) -> Any:
    """Jit a function that only kernels call; it is always put into their code."""
    options = {} if SIMULATED else {"forceinline": True}
    return cuda.jit(device=True, **options)(function)


def bounded_kernel(function: Any, threads: int, blocks: int) -> Any:
    """A kernel whose thread blocks have so many threads, and of which a multiprocessor is to hold so many
    blocks: as many registers as that leaves are its own, and ptxas loads ahead with them."""
    options = {} if SIMULATED else {"launch_bounds": (threads, blocks)}
    return cuda.jit(**options)(function)
