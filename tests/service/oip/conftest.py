"""Triton's own client in its process, and a server with the bundled models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.servers import ServerProcess
from triton_client.process import TritonProcess


@pytest.fixture(scope="session")
def triton() -> Iterator[TritonProcess]:
    """A process that runs what users of tritonclient do."""
    process = TritonProcess()
    yield process
    process.close()


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server as it starts without any settings, but for the ports."""
    process = ServerProcess(tmp_path_factory.mktemp("bundled"), {}).wait_ready()
    yield process
    assert process.stop() == 0, process.log()
    assert '"level": "error"' not in process.log()
