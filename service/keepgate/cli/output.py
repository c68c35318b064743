"""How commands reach a server and print: what they share."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from keepgate.cli import access

if TYPE_CHECKING:
    from keepgate_client import Client, Session
    from rich.console import Console

DEFAULT_PORT = "8001"
BROKEN_PIPE = 141
"""128 + SIGPIPE, as of a program that the signal ended."""


def text_argument(value: str) -> str:
    """The value, if it is text: an argument that is not UTF-8 cannot be sent."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"got {os.fsencode(value)!r}, expected UTF-8 text") from None
    return value


def server_address(value: str) -> str:
    """The value, if it may be an address."""
    if not value.strip():
        raise typer.BadParameter(f"got {value!r}, expected host:port")
    return text_argument(value)


def default_server() -> str:
    """The server of this machine, at the port that `keepgate serve` would take."""
    return f"127.0.0.1:{os.environ.get('KEEPGATE_PORT', DEFAULT_PORT)}"


Server = Annotated[
    str,
    typer.Option(
        "--server",
        "-s",
        envvar="KEEPGATE_SERVER",
        metavar="ADDRESS",
        help="Server to ask, host:port; 127.0.0.1:8001 if not given.",
        show_default=False,
        default_factory=default_server,
        callback=server_address,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Name of a model, or NAME/VERSION; the newest version if none.",
        callback=text_argument,
    ),
]


def fail(message: str) -> NoReturn:
    """Say what is wrong on stderr and exit with 1."""
    prefix = typer.style("keepgate:", fg=typer.colors.RED, bold=True)
    typer.echo(f"{prefix} {message}", err=True)
    raise typer.Exit(1)


class Commands(TyperGroup):
    """The commands; output that cannot be written ends each in the same way."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Parse the arguments, which may already print help or the version."""
        with _writing():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _writing():
            return super().invoke(ctx)


@contextmanager
def _writing() -> Iterator[None]:
    """A reader that has gone, as `head` does, ends the command quietly; a full disk, with a message."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise typer.Exit(BROKEN_PIPE) from None
    except OSError as error:
        _discard_output()
        fail(str(error))
    except ValueError as error:
        # Known only if it was raised: importing the kernels takes long, and most commands do without.
        rungs = sys.modules.get("keepgate_kernels.cpu.rungs")
        if rungs is None or not isinstance(error, rungs.RungError):
            raise
        fail(str(error))


def _discard_output() -> None:
    # Python would complain once more when it flushes stdout at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def connected(server: str) -> Iterator[Client]:
    """A client of the server. What goes wrong is told in words, and the command exits with 1."""
    from keepgate_client import Client, KeepgateError, RetryPolicy, UnreachableError

    try:
        # One quick second attempt: a person would rather hear soon that nothing is there.
        client = Client(server, retry=RetryPolicy(attempts=2), **access.given().arguments())
    except (OSError, ValueError) as error:
        fail(str(error))
    try:
        with client:
            yield client
    except UnreachableError as error:
        fail(
            f"no server answers at {server}.\n"
            "Start one with 'keepgate serve', or name another with --server ADDRESS or KEEPGATE_SERVER.\n"
            f"({error})"
        )
    except KeepgateError as error:
        fail(str(error))


def open_text_session(client: Client, name: str, version: str) -> Session:
    """A session of a model that takes text. For any other model the command fails."""
    from keepgate_client import FeatureInputInfo

    model = client.model(name, version)
    takes = ""
    if isinstance(model.input, FeatureInputInfo):
        takes = "feature vectors"
    elif not model.input.tokenizer:
        takes = "token ids and has no tokenizer"
    if takes:
        fail(f"model '{model.name}/{model.version}' takes {takes}; expected a token model that takes text")
    return client.open(model.name, model.version)


def name_and_version(model: str) -> tuple[str, str]:
    """ "letters/2" as its two parts; the version is "" if there is none."""
    name, _, version = model.partition("/")
    return name, version


def print_json(value: Any) -> None:
    """For programs: one JSON document."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def console(stderr: bool = False) -> Console:
    """Where Rich prints. Piped, tables are as wide as they need to be, without colour."""
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def size(count: int) -> str:
    """Bytes for people: 3_800_000 is "3.6 MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
