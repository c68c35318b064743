"""What runs on this processor, and why."""

from __future__ import annotations

import platform
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from keepgate_kernels.jit import cache_directory

INTERESTING = ("avx2", "fma", "avx512f", "avx512vnni", "avx512bf16", "amx-int8", "neon", "dotprod")
"""Vector features that a kernel could use, as LLVM names them."""

KERNEL = "portable Numba, fp32"
"""The kernel in use: loops that LLVM vectorises for whatever processor is found."""


def cpu_info() -> dict[str, str]:
    """Processor, its vector features, the kernel chosen, library versions, and the kernel cache."""
    features = llvmlite.binding.get_host_cpu_features()
    present = [name for name in INTERESTING if features.get(name)]
    return {
        "processor": _processor_name(),
        "llvm_cpu": llvmlite.binding.get_host_cpu_name(),
        "vector_features": " ".join(present) or "none",
        "kernel": KERNEL,
        "kernel_cache": str(cache_directory()),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
    }


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
