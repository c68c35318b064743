"""The flags of every command that asks a server: TLS and the token."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import grpc

_FILE = {"metavar": "FILE", "exists": True, "dir_okay": False}

Tls = Annotated[
    bool, typer.Option("--tls", envvar="KEEPGATE_TLS", help="Encrypt, and trust the roots that gRPC brings.")
]
Ca = Annotated[
    Path | None,
    typer.Option("--tls-ca", envvar="KEEPGATE_TLS_CA", help="Encrypt, and trust these roots (PEM).", **_FILE),
]
Name = Annotated[
    str,
    typer.Option(
        "--tls-name",
        envvar="KEEPGATE_TLS_NAME",
        metavar="NAME",
        help="Name in the server's certificate, if it is not the address's.",
    ),
]
Cert = Annotated[
    Path | None,
    typer.Option(
        "--client-cert", envvar="KEEPGATE_CLIENT_CERT", help="Certificate to show the server (PEM).", **_FILE
    ),
]
Key = Annotated[
    Path | None,
    typer.Option("--client-key", envvar="KEEPGATE_CLIENT_KEY", help="Its private key (PEM).", **_FILE),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="KEEPGATE_TOKEN_FILE",
        help="File with the token to show the server; KEEPGATE_TOKEN has the token itself.",
        **_FILE,
    ),
]
Plaintext = Annotated[
    bool,
    typer.Option(
        "--allow-plaintext-token",
        envvar="KEEPGATE_ALLOW_PLAINTEXT_TOKEN",
        help="Send the token to another machine without TLS too.",
    ),
]


@dataclass(frozen=True, slots=True)
class Given:
    """What the flags and the environment say."""

    tls: Tls = False
    tls_ca: Ca = None
    tls_name: Name = ""
    client_cert: Cert = None
    client_key: Key = None
    token_file: TokenFile = None
    allow_plaintext_token: Plaintext = False

    def arguments(self) -> dict[str, Any]:
        """Of `keepgate_client.Client`. Raises OSError if a file cannot be read, ValueError."""
        from keepgate_client import TLS

        is_encrypted = self.tls or self.tls_ca or self.client_cert or self.client_key or self.tls_name
        tls = TLS(self.tls_ca, self.client_cert, self.client_key, self.tls_name)
        return {
            "tls": tls if is_encrypted else False,
            "token": self._token(),
            "allow_plaintext_token": self.allow_plaintext_token,
        }

    def _token(self) -> str | None:
        import os

        if self.token_file is not None:
            return self.token_file.read_text().strip()
        return os.environ.get("KEEPGATE_TOKEN") or None


_GIVEN: ContextVar[Given] = ContextVar("given")


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these flags beside its own. It finds what they say by `given`."""
    names = [field.name for field in fields(Given)]
    signature = inspect.signature(command, eval_str=True)
    own = inspect.signature(Given, eval_str=True).parameters.values()

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        flags = {name: arguments.pop(name) for name in names}
        _GIVEN.set(Given(**flags))
        command(**arguments)

    parameters = [
        *signature.parameters.values(),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # its annotations would win
    return run


def given() -> Given:
    """What the flags of the command that runs say."""
    return _GIVEN.get(Given())


@contextmanager
def channel(address: str) -> Iterator[tuple[grpc.Channel, Any]]:
    """A connection for stubs, and the metadata of their calls. Where it cannot be made the command fails."""
    import grpc
    from keepgate_client._access import Access

    from keepgate.cli.output import fail

    try:
        access = Access(address, **given().arguments())
        made = access.channel(grpc.insecure_channel, grpc.secure_channel, [])
    except (OSError, ValueError) as error:
        fail(str(error))
    with made:
        yield made, access.metadata
