"""What is made of the instructions in `ptx`: barriers, and words as mma can take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.ptx import add_released, cooperative, load_acquired
from keepgate_kernels.cuda.target import device_function


@device_function
def apart(four: Any) -> Any:
    """The same words, in registers that need not follow each other.

    Those that a load of four words fills, and those that mma takes, do: without this ptxas copies words of
    rows anew for every tile. It cannot know that z is 0 in every thread.
    """
    zero = np.uint32(cuda.threadIdx.z)
    w0, w1, w2, w3 = four
    return w0 ^ zero, w1 ^ zero, w2 ^ zero, w3 ^ zero


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
        add_released(counter, at, 1)
        while load_acquired(counter, at) < arrivals:
            pass
    cuda.syncthreads()
