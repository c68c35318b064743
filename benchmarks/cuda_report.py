"""What ptxas says of every CUDA kernel, and the occupancy that follows: `make cuda-report` writes it down.

Needs numba-cuda and the CUDA compiler's wheels, as `make test-cuda-sim` installs them, but neither driver
nor device. Kernels are compiled as they would be for a device, and assembled by the ptxas that comes with
the compiler.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from keepgate_kernels.cuda.catalogue import Entry, entries
from keepgate_kernels.cuda.choice import RESERVED_BYTES
from keepgate_kernels.cuda.launch import OWN_SHARED_BYTES, signature

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- cuda report -->\n", "<!-- end of cuda report -->\n"


class Architecture(NamedTuple):
    """Limits of a multiprocessor, from the CUDA programming guide's table of compute capabilities."""

    capability: tuple[int, int]
    shared_bytes: int
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32

    @property
    def name(self) -> str:
        """As ptxas takes it."""
        return "sm_{}{}".format(*self.capability)


ARCHITECTURES = (Architecture((8, 0), 164 << 10), Architecture((9, 0), 228 << 10))
REGISTER_UNIT = 256
"""Registers are given to warps in such units."""
WARP = 32


class Usage(NamedTuple):
    """Of one kernel: registers of a thread, bytes of static shared memory, of stack, and of what was spilled;
    mma: how many mma.sync its PTX has."""

    registers: int
    shared_bytes: int
    stack_bytes: int
    spilled_bytes: int
    mma: int


def ptxas() -> Path:
    """The assembler of the installed CUDA compiler. Raises FileNotFoundError."""
    for folder in map(Path, sys.path):
        for path in (
            folder / "nvidia" / "cuda_nvcc" / "bin" / "ptxas",
            folder / "nvidia" / "cu13" / "bin" / "ptxas",
        ):
            if path.exists():
                return path
    raise FileNotFoundError("ptxas: not installed; keepgate-kernels[cuda] brings it")


@contextmanager
def pretended(capability: tuple[int, int]) -> Iterator[None]:
    """numba-cuda asks the current device what to compile device functions for: this one answers."""
    from numba.cuda import dispatcher  # noqa: PLC0415

    class Device:
        compute_capability = capability

    original = dispatcher.get_current_device
    dispatcher.get_current_device = Device
    try:
        yield
    finally:
        dispatcher.get_current_device = original


def compiled(entry: Entry, architecture: Architecture) -> str:
    """A kernel's PTX."""
    from numba import cuda  # noqa: PLC0415

    kernel = entry.make()
    with pretended(architecture.capability):
        code, _ = cuda.compile_ptx(
            kernel.py_func,
            signature(entry.arguments),
            cc=architecture.capability,
            launch_bounds=kernel.targetoptions.get("launch_bounds"),
        )
    return str(code)


def assemble(entry: Entry, architecture: Architecture, code: str) -> Usage:
    """Assemble a kernel's PTX. Raises RuntimeError with ptxas's words if it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(code)
        result = subprocess.run(
            [ptxas(), f"-arch={architecture.name}", "-v", source, "-o", Path(folder) / "kernel.cubin"],
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode:
        raise RuntimeError(f"{entry.name} for {architecture.name}: {result.stderr}")
    return usage(result.stderr, code)


def usage(report: str, code: str) -> Usage:
    """What ptxas -v reports of one kernel, whose PTX is `code`."""

    def number(pattern: str, default: int | None = None) -> int:
        found = re.search(pattern, report)
        if found is None and default is None:
            raise ValueError(f"no {pattern!r} in the report: {report}")
        return int(found[1]) if found else int(default or 0)

    return Usage(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes smem", 0),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        code.count("mma.sync"),
    )


def held(entry: Entry, architecture: Architecture) -> bool:
    """Whether a thread block may have the kernel's shared memory there."""
    return entry.shared_bytes + OWN_SHARED_BYTES <= architecture.shared_bytes - RESERVED_BYTES


def occupancy(entry: Entry, used: Usage, architecture: Architecture) -> tuple[int, str]:
    """(thread blocks that a multiprocessor holds at once, what bounds them)."""
    warps = -(-entry.threads // WARP)
    of_a_warp = -(-used.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    shared = used.shared_bytes + entry.shared_bytes + RESERVED_BYTES
    bounds = {
        "registers": architecture.registers // (of_a_warp * warps),
        "shared memory": architecture.shared_bytes // shared,
        "threads": architecture.threads // (warps * WARP),
        "blocks": architecture.blocks,
    }
    least = min(bounds, key=lambda name: bounds[name])
    return bounds[least], least


def _found(entry: Entry, architecture: Architecture) -> tuple[Usage | None, int, str]:
    """What is used, and the occupancy; nothing and none where the kernel has no room."""
    if not held(entry, architecture):
        return None, 0, "shared memory"
    used = assemble(entry, architecture, compiled(entry, architecture))
    return used, *occupancy(entry, used, architecture)


def table() -> str:
    """The report as Markdown."""
    lines = [
        "| kernel | threads | registers, sm_80 / sm_90 | shared memory, bytes | `mma.sync` |"
        " thread blocks a multiprocessor, sm_80 / sm_90 | bound by |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries():
        found = [_found(entry, architecture) for architecture in ARCHITECTURES]
        used = [usage for usage, _, _ in found if usage is not None]
        registers = " / ".join("" if usage is None else str(usage.registers) for usage, _, _ in found)
        blocks = " / ".join(str(count) for _, count, _ in found)
        bounds = " / ".join(dict.fromkeys(bound for _, _, bound in found))
        shared = entry.shared_bytes + used[-1].shared_bytes
        lines.append(
            f"| `{entry.name}` | {entry.threads} | {registers} | {shared:,} | {used[-1].mma or ''} |"
            f" {blocks} | {bounds} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the report in docs/performance.md."""
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not tail and END not in rest:
        raise SystemExit(f"{PAGE.name} has no place for the report")
    PAGE.write_text(head + BEGIN + "\n" + table() + "\n" + END + tail)


if __name__ == "__main__":
    main()
