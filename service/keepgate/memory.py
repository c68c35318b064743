"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Have the C library return what was freed; only glibc keeps much of it, and has a call for that.

    Takes milliseconds, without the GIL. https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
