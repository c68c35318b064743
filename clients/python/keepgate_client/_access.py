"""How a client shows who it is, and knows whom it talks to: TLS and tokens."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

Metadata = tuple[tuple[str, str], ...]
Pem = str | Path | bytes
"""The path of a PEM file, or what would be in it."""
NO_PROXY = ("grpc.enable_http_proxy", 0)
"""Of a channel in plain text that carries a token: a proxy of the environment's would read it."""


@dataclass(frozen=True, slots=True)
class TLS:
    """An encrypted connection.

    ca: the roots of the server's certificate; None means those that gRPC brings.
    cert, key: the client's certificate and its key, where the server asks for one.
    server_name: what the server's certificate has, if that is not the host of the address.

        Client("keepgate.example:8001", tls=TLS(ca="ca.pem"), token="...")
    """

    ca: Pem | None = None
    cert: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert, key: got one of them, expected both or none")

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError if a file cannot be read."""
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))

    def options(self) -> list[tuple[str, Any]]:
        """Of the channel."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


@dataclass(frozen=True, slots=True)
class Access:
    """What a client was told of TLS and tokens. tls: True means TLS(). credentials: the caller's own, in
    place of it. allow_plaintext_token: send the token without TLS too, for others on the way to read.

    Raises ValueError if the arguments do not go together, or the token would travel in plain text.
    """

    target: str
    tls: TLS | bool = False
    credentials: grpc.ChannelCredentials | None = None
    token: str | None = field(default=None, repr=False)
    allow_plaintext_token: bool = False

    def __post_init__(self) -> None:
        if self.tls and self.credentials is not None:
            raise ValueError("tls, credentials: got both, expected one of them at most")
        if self.token is None:
            return
        if not (self.token and self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ValueError("token: expected printable ASCII without blanks")
        is_plain = not self.tls and self.credentials is None
        if is_plain and not self.allow_plaintext_token and not is_local(self.target):
            raise ValueError(
                f"token: {self.target} is not this machine, and without TLS anyone on the way could read the "
                "token: expected tls=, or allow_plaintext_token=True"
            )

    @property
    def metadata(self) -> Metadata | None:
        """Of every call."""
        return None if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def channel(
        self,
        plain: Callable[[str, Any], Any],
        secure: Callable[[str, grpc.ChannelCredentials, Any], Any],
        options: list[tuple[str, Any]],
    ) -> Any:
        """A channel to the target by one of the two, as grpc.insecure_channel and grpc.secure_channel."""
        if self.credentials is not None:
            return secure(self.target, self.credentials, options)
        if not self.tls:
            return plain(self.target, options if self.token is None else [*options, NO_PROXY])
        tls = TLS() if self.tls is True else self.tls
        return secure(self.target, tls.credentials(), [*options, *tls.options()])


def is_local(target: str) -> bool:
    """Whether what is sent to a gRPC target stays on this machine."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("ipv4", "ipv6", "dns"):
        target = rest.removeprefix("//")
        if scheme == "dns" and rest.startswith("//"):
            target = target.partition("/")[2]  # before it is the name server
    elif "://" in target:
        return False
    return all(map(_is_local_host, target.split(",")))


def _is_local_host(address: str) -> bool:
    host = address
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        host = address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pem(source: Pem | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    return Path(source).read_bytes()
