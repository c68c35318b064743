"""A server's file of tokens, and connections that show one."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from keepgate.security.tokens import entry, new_token

from support.wire import Wire

ALL_SCOPES = ["sequences", "models", "admin"]


class TokenFile:
    """Written anew with each token."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, str] = {}

    def add(
        self, principal: str, scopes: list[str] | None = None, expires: datetime.datetime | None = None
    ) -> str:
        """A new token."""
        token = new_token()
        self._entries[token] = entry(token, principal, scopes, expires)
        self._write()
        return token

    def remove(self, token: str) -> None:
        del self._entries[token]
        self._write()

    def _write(self) -> None:
        scratch = self.path.with_suffix(".new")
        scratch.write_text("\n".join(self._entries.values()))
        scratch.replace(self.path)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


class _Showing(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    def __init__(self, token: str) -> None:
        self._metadata = bearer(token)

    def _shown(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._shown(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._shown(continuation, client_call_details, request)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._shown(continuation, client_call_details, request_iterator)


def showing(channel: grpc.Channel, token: str) -> grpc.Channel:
    """The channel; all calls show the token."""
    return grpc.intercept_channel(channel, _Showing(token))


@contextmanager
def connect_as(address: str, token: str) -> Iterator[Wire]:
    """A connection of its own in plain text, closed at the end."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Wire(showing(channel, token))
