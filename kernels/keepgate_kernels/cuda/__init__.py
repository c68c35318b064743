"""Kernels for CUDA devices. Raises DeviceMissingError where numba-cuda is not installed."""

from keepgate_kernels.cuda import target

__all__ = ["target"]
