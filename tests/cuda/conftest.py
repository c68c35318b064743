"""Tests of the CUDA backend: `make test-cuda-sim` without a device, `make test-cuda` on one.

compiled/ compiles kernels and needs no device; network/ runs them, on a device or on the machine in
support.ptx_machine; machine/ tests that; device/ is what only a device is fast enough for.
"""
