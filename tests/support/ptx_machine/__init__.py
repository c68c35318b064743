"""A machine for PTX: a CUDA driver that runs kernels on the processor, and checks how it is used.

A process uses it that is started with `environment(build(BUILD))`, as `python -m support.ptx_machine` does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = "libcuda.so.1"
TESTS = FOLDER.parents[1]
BUILD = TESTS.parent / "build" / "ptx-machine"


def headers() -> Path:
    """The folder of cuda.h, which comes with the CUDA runtime. Raises FileNotFoundError."""
    found = importlib.util.find_spec("nvidia")
    for place in found.submodule_search_locations or () if found else ():
        for package in ("cuda_runtime", "cu13"):
            if (Path(place) / package / "include" / "cuda.h").is_file():
                return Path(place) / package / "include"
    raise FileNotFoundError("cuda.h is not installed with nvidia-cuda-runtime")


def build(cache: Path) -> Path:
    """Compile the driver, if its sources are newer, and return the folder that holds it."""
    sources = sorted(FOLDER.glob("*.c"))
    target = cache / LIBRARY
    newest = max(path.stat().st_mtime_ns for path in (*sources, *FOLDER.glob("*.h")))
    if target.exists() and target.stat().st_mtime_ns > newest:
        return cache
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{LIBRARY}.{os.getpid()}"
    options = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}")
    libraries = ("-lm", "-ldl", "-lpthread")
    command = ("cc", *options, "-isystem", str(headers()), "-o", str(partial), *map(str, sources), *libraries)
    subprocess.run(command, check=True)
    partial.replace(target)
    link = cache / "libcuda.so"  # numba-cuda asks for this name first
    link.unlink(missing_ok=True)
    link.symlink_to(LIBRARY)
    return cache


def environment(folder: Path) -> dict[str, str]:
    """Variables, with those of this process, for one that is to use the driver in a folder."""
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join((str(folder), *_listed("LD_LIBRARY_PATH"))),
        "PYTHONPATH": os.pathsep.join((str(FOLDER / "site"), *_listed("PYTHONPATH"))),
        "PTX_MACHINE_TESTS": str(TESTS),
        "PTX_MACHINE_TRANSLATE": f"'{sys.executable}' '{FOLDER / 'translate.py'}'",
        # What is freed is freed at once, so that what still uses it is told of.
        "NUMBA_CUDA_MAX_PENDING_DEALLOCS_COUNT": "0",
    }


def _listed(name: str) -> list[str]:
    return [path for path in os.environ.get(name, "").split(os.pathsep) if path]


def install() -> None:
    """Load the driver, and have numba-cuda load PTX where it would load what was linked from it."""
    ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
    from cuda.core import ObjectCode  # the driver is to be loaded first
    from numba.cuda.codegen import CUDACodeLibrary

    link = CUDACodeLibrary.get_cubin

    def get_code(self: CUDACodeLibrary, cc: tuple[int, int, str] | None = None) -> ObjectCode:
        link(self, cc)
        (ptx,) = self.get_asm_strs(cc)
        return ObjectCode.from_ptx(ptx.encode() + b"\0")

    CUDACodeLibrary.get_cubin = get_code
