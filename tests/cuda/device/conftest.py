"""These need a device."""

from __future__ import annotations

import pytest
from keepgate_kernels.cuda.launch import multiprocessors
from keepgate_kernels.cuda.target import SIMULATED
from keepgate_kernels.errors import DeviceMissingError


@pytest.fixture(autouse=True, scope="session")
def device() -> None:
    """Skips all where there is none, with the reason."""
    if SIMULATED:
        pytest.skip("the simulator is no device")
    try:
        multiprocessors()
    except DeviceMissingError as error:
        pytest.skip(f"no GPU here: {error.reason}")
