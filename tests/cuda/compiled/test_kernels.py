"""Every kernel is compiled for Ampere and Hopper and assembled: no spills, no mma lost, none left to fuse."""

from __future__ import annotations

import re

import pytest
from cuda_report import ARCHITECTURES, Architecture, Usage, assemble, compiled, held, occupancy, usage
from keepgate_kernels import Network
from keepgate_kernels.cuda.catalogue import Entry, entries
from keepgate_kernels.cuda.launch import OWN_SHARED_BYTES
from keepgate_kernels.cuda.ptx import SHARED_ALIGNMENT
from keepgate_kernels.cuda.tiles import HUGE
from keepgate_kernels.errors import DeviceMissingError
from numba import cuda
from support.random_models import random_tensors, token_spec

PAIRS = [
    pytest.param(entry, architecture, id=f"{entry.name}-{architecture.name}")
    for entry in entries()
    for architecture in ARCHITECTURES
    if held(entry, architecture)
]
"""Kernels, and those architectures on which a thread block may have their shared memory."""


def test_all_but_the_largest_shape_are_for_every_architecture() -> None:
    lacking = {entry.shape for entry in entries() for other in ARCHITECTURES if not held(entry, other)}
    assert lacking == {HUGE}
    assert all(held(entry, ARCHITECTURES[-1]) for entry in entries())


@pytest.mark.parametrize(("entry", "architecture"), PAIRS)
def test_a_kernel_compiles(entry: Entry, architecture: Architecture) -> None:
    code = compiled(entry, architecture)
    assert not fusable(code)
    used = assemble(entry, architecture, code)
    # A loop of them may have been unrolled.
    assert used.mma >= entry.mma
    assert used.mma % entry.mma == 0 if entry.mma else used.mma == 0
    if entry.shape is not None:
        assert used.spilled_bytes == 0
        assert used.stack_bytes == 0
    assert used.shared_bytes <= OWN_SHARED_BYTES
    declared = re.findall(r"\.extern \.shared \.align (\d+)", code)
    assert set(declared) == ({str(SHARED_ALIGNMENT)} if entry.shared_bytes else set())
    blocks, _ = occupancy(entry, used, architecture)
    assert blocks >= 1


def fusable(code: str) -> list[str]:
    """Sums of a product that ptxas may make one multiply-add of: PTX promises neither the one nor the other
    of what bears no rounding, so in one shape of a kernel it may be, and in another not."""
    products: set[str] = set()
    found = []
    for line in code.splitlines():
        match = re.match(r"\s*(?:@!?%p\d+\s+)?([a-z0-9.]+)\s+(.*);", line)
        if match is None:
            continue
        target, *sources = (operand.strip() for operand in match[2].split(","))
        if match[1] in ("mul.f32", "mul.f64"):
            products.add(target)
        elif match[1] in ("add.f32", "sub.f32", "add.f64", "sub.f64") and products & set(sources):
            found.append(line.strip())
    return found


def test_a_sum_of_a_product_is_found() -> None:
    code = "  mul{0}.f32 \t%f3, %f1, %f2;\n @%p1 add.f32 \t%f4, %f3, %f1;\n"
    assert fusable(code.format("")) == ["@%p1 add.f32 \t%f4, %f3, %f1;"]
    assert not fusable(code.format(".rn"))


def test_a_report_is_read_and_occupancy_is_counted() -> None:
    report = (
        "ptxas info    : 0 bytes gmem\n"
        "    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 126 registers, used 1 barriers, 256 bytes smem\n"
    )
    used = usage(report, "mma.sync.aligned mma.sync.aligned")
    assert used == Usage(registers=126, shared_bytes=256, stack_bytes=16, spilled_bytes=20, mma=2)
    entry = next(entries())._replace(threads=128, shared_bytes=39_424)
    ampere, hopper = ARCHITECTURES
    # 126 registers are 4,096 a warp, 4 warps: 4 blocks; 39,424 + 256 + 1,024 bytes: 4 of them in 164 KiB.
    assert occupancy(entry, used, ampere) == (4, "registers")
    assert occupancy(entry._replace(shared_bytes=60_000), used, ampere) == (2, "shared memory")
    assert occupancy(entry._replace(shared_bytes=0, threads=32), used._replace(registers=32), hopper) == (
        32,
        "blocks",
    )


def test_without_a_device_the_reason_is_told() -> None:
    try:
        devices = len(cuda.gpus)
    except Exception:  # whatever numba-cuda says without a driver
        devices = 0
    if devices:
        pytest.skip("there is a device here")
    spec = token_spec()
    with pytest.raises(DeviceMissingError, match="device cuda: there is none to use") as caught:
        Network(spec, random_tensors(spec), slots=1, device="cuda")
    assert caught.value.reason
