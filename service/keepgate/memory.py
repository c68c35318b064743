"""Memory that is free goes back to the system, and that in use is not searched in vain.

Only glibc keeps much that is free; with another C library, no calls.
https://man7.org/linux/man-pages/man3/mallopt.3.html, https://man7.org/linux/man-pages/man3/malloc_trim.3.html
"""

from __future__ import annotations

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MIB = 1 << 20
MAPPED_BYTES = 8 * MIB
"""Blocks from this size on are mapped, and unmapped once they are free: weights, slots. Twice the largest
message, for messages come and go all the time."""
KEPT_BYTES = 16 * MIB
"""What a thread's heap may keep at its end."""
YOUNG = 10_000
"""Objects that were made and not freed, before the collector looks for cycles among them. Python's 700 are a
few dozen sessions; hardly anything here is in a cycle once it is over."""


def steady() -> None:
    """At start: fix these sizes. Left alone glibc raises them to 32 and 64 MiB as large blocks are freed, and
    each thread that loaded a model would keep so much."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Return what was freed in smaller blocks. Takes milliseconds, without the GIL."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def settle() -> None:
    """When all is loaded: what is there now stays, so that no collection walks all that Numba made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
