"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keepgate_kernels import cpu_info

from kernel_bench import loops

PACKAGES = ("keepgate-kernels", "numba", "llvmlite", "numpy", "torch", "onnxruntime", "openvino")
PROCESSOR = ("processor", "llvm_cpu", "vector_features")
NO_KERNEL = ("kernel_cache", "python", "numba", "llvmlite", "numpy")
"""What else `cpu_info` tells that is said elsewhere here, or is a folder of this machine."""
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def machine() -> dict[str, Any]:
    """Processor, caches, libraries, and how busy the machine was before."""
    info = cpu_info()
    return {
        **{name: info[name] for name in PROCESSOR},
        "kernels": {name: value for name, value in info.items() if name not in {*PROCESSOR, *NO_KERNEL}},
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "vector_bits": 8 * loops.VECTOR_BYTES,
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def caches() -> dict[str, str]:
    """Sizes of the first core's caches, as Linux writes them; empty on other systems."""
    sizes = {}
    for folder in sorted(CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = size
    return sizes


def in_words(facts: dict[str, Any]) -> str:
    """A sentence each on the machine, the kernels chosen for it, and the libraries."""
    sizes = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    kernels = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts["kernels"].items())
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    return (
        f"{facts['processor']} ({facts['llvm_cpu']}), {facts['cores']} cores, {sizes}; vectors of "
        f"{facts['vector_bits']} bits; {facts['vector_features']}. Keepgate's kernels: {kernels}. "
        f"Python {facts['python']}, {packages}."
    )
