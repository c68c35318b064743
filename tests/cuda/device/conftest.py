"""These need a device."""

from __future__ import annotations

import os

import pytest
from keepgate_kernels.cuda.launch import multiprocessors
from keepgate_kernels.errors import DeviceMissingError


@pytest.fixture(autouse=True, scope="session")
def device() -> None:
    """Skips all where there is none, with the reason."""
    if "PTX_MACHINE_TESTS" in os.environ:
        pytest.skip("the machine is too slow for these")
    try:
        multiprocessors()
    except DeviceMissingError as error:
        pytest.skip(f"no GPU here: {error.reason}")
