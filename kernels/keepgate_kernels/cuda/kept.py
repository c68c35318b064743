"""Compiled kernels are kept on disk, beside those of the CPU, so that a second start compiles nothing."""

from __future__ import annotations

from typing import Any

import numba_cuda
from numba import cuda
from numba.cuda.dispatcher import CUDACache, CUDACacheImpl

from keepgate_kernels.jit import KernelCacheLocator


class _Locator(KernelCacheLocator):
    """One file for each kernel and architecture, so no two processes write different code into one."""

    def get_disambiguator(self) -> str:
        major, minor = cuda.get_current_device().compute_capability
        return f"sm_{major}{minor}"


class _Files(CUDACacheImpl):  # type: ignore[misc]  # numba-cuda has no types
    _locator_classes = (_Locator,)


class _Cache(CUDACache):  # type: ignore[misc]
    _impl_class = _Files

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        # The file's name says which kernel, its stamp which sources. What numba-cuda would look at as well
        # are the values that a function closes over, which it cannot compare between two processes.
        return signature, codegen.magic_tuple(), numba_cuda.__version__


def keep(kernel: Any, name: str) -> None:
    """Have a kernel load what was compiled before, or keep what it compiles. Profilers show the name."""
    kernel.py_func.__qualname__ = name
    kernel._cache = _Cache(kernel.py_func)
