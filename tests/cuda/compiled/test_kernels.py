"""Every kernel is compiled for Ampere and Hopper and assembled: no spills, and no mma lost on the way."""

from __future__ import annotations

import pytest
from cuda_report import ARCHITECTURES, Architecture, Usage, assemble, occupancy, usage
from keepgate_kernels import Network
from keepgate_kernels.cuda.catalogue import Entry, entries
from keepgate_kernels.errors import DeviceMissingError
from numba import cuda
from support.random_models import random_tensors, token_spec

MOST_SHARED_BYTES = 163 << 10
"""Of a thread block on sm_80; sm_90 has more."""


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: entry.name)
def test_a_kernel_compiles(entry: Entry, architecture: Architecture) -> None:
    used = assemble(entry, architecture)
    # A loop of them may have been unrolled.
    assert used.mma >= entry.mma
    assert used.mma % entry.mma == 0 if entry.mma else used.mma == 0
    if entry.shape is not None:
        assert used.spilled_bytes == 0
        assert used.stack_bytes == 0
    assert used.shared_bytes + entry.shared_bytes <= MOST_SHARED_BYTES
    assert used.shared_bytes % 16 == 0  # dynamic shared memory lies behind, and cp.async wants it so
    blocks, _ = occupancy(entry, used, architecture)
    assert blocks >= 1


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
