"""What runs on this processor, and why."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.rungs import VARIABLE, available
from keepgate_kernels.jit import cache_directory
from keepgate_kernels.weights import PRECISIONS

INTERESTING = ("avx2", "fma", "avx512f", "avx512vnni", "avx512bf16", "amx-int8", "neon", "dotprod")
"""Vector features that a kernel could use, as LLVM names them."""


def cpu_info() -> dict[str, str]:
    """Processor, its vector features, the rung of the ladder and why, library versions, the kernel cache."""
    features = llvmlite.binding.get_host_cpu_features()
    present = [name for name in INTERESTING if features.get(name)]
    return {
        "processor": _processor_name(),
        "llvm_cpu": llvmlite.binding.get_host_cpu_name(),
        "vector_features": " ".join(present) or "none",
        "rung": RUNG.name,
        "chosen": f"by {VARIABLE}" if os.environ.get(VARIABLE) else "the best that this processor runs",
        "runs": ", ".join(rung.name for rung in available()),
        **{f"{precision}_kernel": RUNG.dot(precision).name for precision in PRECISIONS},
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
