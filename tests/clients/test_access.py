"""What a client shows of itself, and to whom."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from keepgate_client import (
    TLS,
    AsyncClient,
    Client,
    RetryPolicy,
    ScopeMissingError,
    SessionsExhaustedError,
    TokenExpiredError,
    TokenInvalidError,
    TokenMissingError,
)
from keepgate_client._access import Access, is_local
from support.servers import ServerProcess
from support.tokens import TokenFile

Start = Callable[..., ServerProcess]
PROXY_SECONDS = 20.0
"""What a call gets that must not wait for a proxy which never answers."""
LOCAL = [
    "127.0.0.1:8001",
    "127.8.8.8:1",
    "localhost:8001",
    "localhost",
    "[::1]:8001",
    "dns:localhost:8001",
    "dns:///localhost:8001",
    "dns://10.0.0.1/127.0.0.1:80",
    "ipv4:127.0.0.1:80,127.0.0.2:80",
    "ipv6:[::1]:80",
    "unix:/run/keepgate",
    "unix-abstract:keepgate",
]
ELSEWHERE = [
    "10.0.0.1:8001",
    "keepgate.example:8001",
    "localhost.example:8001",
    "127.0.0.1.example:8001",
    "[2001:db8::1]:8001",
    "dns:///keepgate.example",
    "dns://127.0.0.1/keepgate.example:80",
    "ipv4:127.0.0.1:80,10.0.0.1:80",
    "xds:///localhost",
    "0.0.0.0:8001",
    "unix.example:8001",
    "",
]


@pytest.mark.parametrize("target", LOCAL)
def test_a_token_goes_to_this_machine_in_plain_text(target: str) -> None:
    assert is_local(target)
    Access(target, token="kg_x")  # noqa: S106


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_token_goes_nowhere_else_in_plain_text(target: str) -> None:
    assert not is_local(target)
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="without TLS anyone on the way could read the token"):
            kind(target, token="kg_x")  # noqa: S106
    Access(target, tls=True, token="kg_x")  # noqa: S106
    Access(target, credentials=grpc.ssl_channel_credentials(), token="kg_x")  # noqa: S106
    Access(target, token="kg_x", allow_plaintext_token=True)  # noqa: S106


@pytest.mark.parametrize("token", ["", "two words", "é", "line\n"])
def test_a_token_that_no_header_carries(token: str) -> None:
    with pytest.raises(ValueError, match="expected printable ASCII without blanks"):
        Client(token=token)


def test_tls_and_credentials_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="got both, expected one of them at most"):
        Client(tls=True, credentials=grpc.ssl_channel_credentials())
    with pytest.raises(OSError, match="nowhere"):
        Client(tls=TLS(ca="/nowhere/ca.pem"))


def test_secrets_are_not_printed() -> None:
    access = Access("localhost", tls=TLS(cert=b"shown", key=b"hidden"), token="kg_hidden")  # noqa: S106
    assert "hidden" not in repr(access)


def test_every_call_shows_the_token(start_server: Start, tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    token, models = file.add("alice", ["sequences"]), file.add("bob", ["models"])
    server = start_server(tokens_file=file.path, max_sessions_per_principal=2)
    once = RetryPolicy(attempts=1)
    with Client(server.address, token=token, retry=once) as client:
        session = client.open("letters")
        session.step(text="abc")
        with client.stream() as stream:
            assert stream.step(session, text="d").result().position == 4
        assert len(list(session.generate("e", max_tokens=3))) == 3
        assert session.fork().position == session.position
        with pytest.raises(SessionsExhaustedError) as exhausted:
            client.open("letters")
        assert exhausted.value.retry_after
        with pytest.raises(ScopeMissingError) as missing:
            client.models()
        assert missing.value.metadata["scope"] == "models"

    async def steps() -> int:
        async with AsyncClient(server.address, token=token) as one:
            session = await one.attach((await anext(one.sessions())).session_id)
            async with one.stream() as stream:
                await stream.step(session, text="f")
            tokens = [token async for token in session.generate("a", max_tokens=2)]
            return len(tokens)

    assert asyncio.run(steps()) == 2
    with Client(server.address, token=models) as client:
        assert client.models()
    with Client(server.address) as client, pytest.raises(TokenMissingError):
        client.models()
    with Client(server.address, token="kg_wrong") as client, pytest.raises(TokenInvalidError):  # noqa: S106
        client.models()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_token_in_plain_text_goes_past_a_proxy(
    start_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    token = file.add("alice")
    server = start_server(tokens_file=file.path)
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")

        async def models() -> bool:
            async with AsyncClient(server.address, token=token, timeout=PROXY_SECONDS) as one:
                return bool(await one.models())

        if asynchronous:
            assert asyncio.run(models())
        else:
            with Client(server.address, token=token, timeout=PROXY_SECONDS) as client:
                assert client.models()
        with pytest.raises(BlockingIOError):  # nobody has called
            proxy.accept()


def test_an_expired_token(start_server: Start, tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    token = file.add("alice", expires=datetime(2020, 1, 1, tzinfo=UTC))
    server = start_server(tokens_file=file.path)
    with Client(server.address, token=token) as client, pytest.raises(TokenExpiredError):
        client.models()
