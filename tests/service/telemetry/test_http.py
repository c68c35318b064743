"""The HTTP port: health, and clients that do not behave."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from keepgate.config import load_settings
from keepgate.errors import ConfigError
from keepgate.telemetry.http import MAX_CONNECTIONS, MAX_HEAD_BYTES
from support.metrics import Metrics, get
from support.operator import wait_for
from support.servers import ServerProcess
from support.wire import connect, step

Start = Callable[..., ServerProcess]
DEADLINE = 60.0


def connected(server: ServerProcess) -> socket.socket:
    host, port = server.http_address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), DEADLINE)


def said(connection: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    parts: list[bytes] = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def exchange(server: ServerProcess, data: bytes) -> bytes:
    with connected(server) as connection:
        connection.sendall(data)
        return said(connection)


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/healthz?a=b"]
)
def test_a_server_that_serves_is_live_and_ready(server: ServerProcess, path: str) -> None:
    assert get(server, path)[:2] == (200, "OK\n")
    assert get(server, path, "HEAD")[:2] == (200, "")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/v2", "/v2/health", "//metrics", "/..%2fmetrics"])
def test_nothing_else_is_there(server: ServerProcess, path: str) -> None:
    assert get(server, path).status == 404


def test_other_methods_are_refused(server: ServerProcess) -> None:
    answer = exchange(server, b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


@pytest.mark.parametrize(
    "request_line",
    [
        b"",
        b"GET",
        b"GET /healthz",
        b"GET /healthz HTTP/2.0",
        b"GET  /healthz HTTP/1.1",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_what_is_no_request_is_refused(server: ServerProcess, request_line: bytes) -> None:
    assert exchange(server, request_line + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_long_head_is_refused(server: ServerProcess) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES)
        assert connection.recv(13) == b"HTTP/1.1 431 "


def test_slow_clients_keep_nobody_out_for_long(start_server: Start) -> None:
    server = start_server()
    idle = [connected(server) for _ in range(MAX_CONNECTIONS)]
    for connection in idle:
        connection.sendall(b"GET /metrics HT")

    def refused() -> bool:
        try:
            return not exchange(server, b"GET /healthz HTTP/1.1\r\n\r\n")
        except OSError:
            return True

    wait_for(refused)
    with connect(server.address) as wire:  # the others are served all the while
        wire.step(wire.open(), "a")
    for connection in idle:
        assert said(connection) == b""  # their time is over
        connection.close()
    wait_for(lambda: not refused())
    assert get(server, "/healthz").status == 200


def test_not_ready_while_it_drains(start_server: Start) -> None:
    server = start_server()
    with connect(server.address) as wire:
        session = wire.open(version="1")
        # A generation is finished, so the drain waits for it, and for a client that does not read it.
        answers = wire.sequences.Generate(long_generation(session), timeout=DEADLINE)
        next(answers)
        server.terminate()
        wait_for(lambda: get(server, "/readyz").status == 503)
        assert get(server, "/v2/health/ready").body == "Service Unavailable\n"
        assert get(server, "/healthz").status == 200
        assert Metrics(server)("keepgate_calls_in_flight") == 1
        answers.cancel()
        assert server.wait() == 0


def long_generation(session: str) -> Any:
    from keepgate_protos.v1 import sequences_pb2 as pb

    return pb.GenerateRequest(session_id=session, prompt=step(session, "a").inputs, max_tokens=16_384)


def test_it_can_be_turned_off(start_server: Start) -> None:
    server = start_server(http_address="")
    assert server.http_address == ""
    with connect(server.address) as wire:
        wire.step(wire.open(), "a")


def test_a_taken_port_is_an_error(server: ServerProcess, start_server: Start) -> None:
    with pytest.raises(RuntimeError, match=f"http_address: cannot listen on {server.http_address}: is it in"):
        start_server(http_address=server.http_address)


@pytest.mark.parametrize("address", ["8002", "x", "127.0.0.1:", "127.0.0.1:65536", "http://127.0.0.1:1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match=r"http_address: got '.*'\. Expected host:port"):
        load_settings(http_address=address)


def test_scrapes_at_once_all_get_the_document(server: ServerProcess) -> None:
    connections = [connected(server) for _ in range(16)]
    for connection in connections:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    for connection in connections:
        answer = said(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
        assert b"keepgate_build_info{" in body
        connection.close()
