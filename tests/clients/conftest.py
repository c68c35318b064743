"""Fixtures of the client's tests: a client of the shared server, and a proxy in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from keepgate_client import Client, Session, SessionClosedError
from support.groups import ROWS, SAMPLED, Columns, inputs, single
from support.proxy import Proxy
from support.servers import ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    """A client straight to the shared server."""
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    """A proxy in front of the shared server."""
    with Proxy(server.address) as forwarding:
        yield forwarding


@pytest.fixture(scope="session")
def undisturbed_columns(server: ServerProcess) -> Columns:
    """What steps of `support.groups.inputs` answer where nothing goes wrong."""
    with Client(server.address) as client:
        return single(client, inputs(), **SAMPLED)


@pytest.fixture
def sessions(client: Client) -> Iterator[list[Session]]:
    """A session for each row of a frame."""
    opened = [client.open("letters") for _ in range(ROWS)]
    yield opened
    for session in opened:
        try:
            session.close()
        except SessionClosedError:
            continue  # the test did
