"""The instructions of `ptx`, and barriers made of them."""

from __future__ import annotations

from typing import Any

from keepgate_kernels.cuda.ptx import (
    as_float,
    as_word,
    commit,
    cooperative,
    copy16,
    load4,
    load_shared_by_all,
    mma_bf16,
    mma_int8,
    rounded_product,
    waiting,
)
from keepgate_kernels.cuda.target import device_function
from numba import cuda


@device_function
def sync_warp() -> None:
    """All threads of the warp have come here."""
    cuda.syncwarp()


@device_function
def sync_grid(counter: Any, at: Any, arrivals: Any) -> None:
    """All thread blocks of the grid have come here, and see what the others wrote.

    counter: int32, of which the word `at` counts the blocks that came; arrivals: of all of them, barriers
    before this one included.
    """
    cooperative()
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        cuda.threadfence()
        cuda.atomic.add(counter, at, 1)
        while load_shared_by_all(counter, at) < arrivals:
            pass
        cuda.threadfence()
    cuda.syncthreads()


__all__ = [
    "as_float",
    "as_word",
    "commit",
    "copy16",
    "load4",
    "mma_bf16",
    "mma_int8",
    "rounded_product",
    "sync_grid",
    "sync_warp",
    "waiting",
]
