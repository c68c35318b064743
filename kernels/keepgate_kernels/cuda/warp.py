"""The instructions of `ptx`, or their twins where the simulator runs the kernels."""

from __future__ import annotations

from keepgate_kernels.cuda.target import SIMULATED, device_function
from numba import cuda

if SIMULATED:
    from keepgate_kernels.cuda.twins import (
        as_float,
        as_word,
        commit,
        copy16,
        load4,
        mma_bf16,
        mma_int8,
        waiting,
    )

    @cuda.jit(device=True)
    def sync_warp() -> None:
        """All threads of the warp have come here; here all of the block."""
        cuda.syncthreads()
else:
    from keepgate_kernels.cuda.ptx import (
        as_float,
        as_word,
        commit,
        copy16,
        load4,
        mma_bf16,
        mma_int8,
        waiting,
    )

    @device_function
    def sync_warp() -> None:
        """All threads of the warp have come here."""
        cuda.syncwarp()


__all__ = [
    "as_float",
    "as_word",
    "commit",
    "copy16",
    "load4",
    "mma_bf16",
    "mma_int8",
    "sync_warp",
    "waiting",
]
