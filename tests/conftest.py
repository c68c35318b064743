"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support.repositories import write_repository
from support.servers import ServerProcess
from support.wire import Wire, connect


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository: see `support.repositories.write_repository`. Not to be changed."""
    return write_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A running server with the repository and default limits, shared by tests that leave it as it
    is."""
    process = ServerProcess(tmp_path_factory.mktemp("server"), {"models": repository}).wait_ready()
    yield process
    assert process.stop() == 0, process.log()
    assert '"level": "error"' not in process.log()
    assert "Traceback" not in process.log()


@pytest.fixture
def start_server(repository: Path, tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """A factory of servers of one's own: start_server(max_sessions=1). extra: as `ServerProcess`. They are
    killed after the test."""
    started: list[ServerProcess] = []

    def start(extra: Mapping[str, str] | None = None, **settings: object) -> ServerProcess:
        directory = tmp_path / f"server-{len(started)}"
        process = ServerProcess(directory, {"models": repository, **settings}, extra)
        started.append(process)
        return process.wait_ready()

    yield start
    for process in started:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    """A connection to the shared server."""
    with connect(server.address) as connection:
        yield connection
