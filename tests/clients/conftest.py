"""Fixtures of the client's tests: a client of the shared server, and a proxy in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from keepgate_client import Client
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
