"""Tests of the CUDA backend: `make test-cuda-sim` without a device, `make test-cuda` on one.

simulated/ runs kernels, in numba-cuda's simulator or on a device; compiled/ compiles them and needs
neither; device/ needs a device.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from keepgate_kernels.cuda.target import SIMULATED


@pytest.fixture(autouse=True)
def on_greenlets(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the simulator: threads are switched in an order that is the test's own."""
    if not SIMULATED or request.node.get_closest_marker("own_scheduler"):
        yield
        return
    from support.grid_simulator import scheduler

    with scheduler(zlib.crc32(request.node.nodeid.encode())):
        yield
