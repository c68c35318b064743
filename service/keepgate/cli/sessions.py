"""keepgate sessions, fork, rewind, export, import: sessions that a server has."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import dataclasses
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepgate.cli.output import (
    Json,
    Server,
    connected,
    console,
    name_and_version,
    print_json,
    size,
    text_argument,
)
from keepgate.sessions.durability import Durability

if TYPE_CHECKING:
    from keepgate_client import SessionInfo
    from keepgate_client.types import DurabilityName

STANDARD = Path("-")
"""Stands for stdin or stdout."""
MOST_SECONDS = 1e9
"""More than any server takes, and less than the protocol does."""

SessionId = Annotated[
    str,
    typer.Argument(metavar="SESSION", help="Id of an open session.", callback=text_argument),
]
NewId = Annotated[
    str,
    typer.Option(
        "--id",
        metavar="ID",
        help="Id of the new session; drawn by chance if not given.",
        callback=text_argument,
    ),
]
Ttl = Annotated[
    float | None,
    typer.Option(
        "--idle-ttl",
        metavar="SECONDS",
        min=0.001,
        max=MOST_SECONDS,
        help="How long the new session outlives its last request.",
    ),
]
Lasting = Annotated[
    Durability | None,
    typer.Option("--durability", help="What of the new session survives the server."),
]


def sessions(
    server: Server,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Only sessions of this model.", callback=text_argument)
    ] = "",
    as_json: Json = False,
) -> None:
    """List the open sessions of a server.

    STORED is the position that a session would have if the server were killed now. STATE is where its state
    is: resident in a slot, in memory to be made again, or in the store.
    """
    from rich.table import Table

    with connected(server) as client:
        found = list(client.sessions(model, page_size=1000))
    if as_json:
        print_json([_as_dict(session) for session in found])
        return
    if not found:
        typer.echo("No session is open.", err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("SESSION", overflow="fold")
    for column in ("MODEL", "DURABILITY", "STATE"):
        table.add_column(column, no_wrap=True)
    for column in ("POSITION", "STORED", "IDLE", "EXPIRES IN"):
        table.add_column(column, justify="right", no_wrap=True)
    now = datetime.now(UTC)
    for session in found:
        idle = (now - session.last_used).total_seconds()
        table.add_row(
            session.session_id,
            f"{session.model}/{session.version}",
            session.durability or "?",
            session.residency or "?",
            f"{session.position:,}",
            "-" if session.durability == "none" else f"{session.durable_position:,}",
            _duration(idle),
            _duration(session.idle_ttl.total_seconds() - idle),
        )
    console().print(table)


def fork(
    session: SessionId, server: Server, new_id: NewId = "", idle_ttl: Ttl = None, durability: Lasting = None
) -> None:
    """Copy a session, history and all; prints the new id."""
    with connected(server) as client:
        twin = client.attach(session).fork(new_id, idle_ttl, durability=_value(durability))
    typer.echo(twin.session_id)


def rewind(
    session: SessionId,
    position: Annotated[
        int,
        typer.Argument(
            metavar="POSITION", min=0, max=2**64 - 1, help="Inputs that the session has seen then."
        ),
    ],
    server: Server,
) -> None:
    """Take a session back to an earlier position."""
    with connected(server) as client:
        attached = client.attach(session)
        before = attached.position
        attached.rewind(position)
    typer.echo(f"Session '{session}' is at position {position:,}; it was at {before:,}.", err=True)


def export(
    session: SessionId,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File to write; - for stdout.", dir_okay=False, allow_dash=True),
    ],
    server: Server,
) -> None:
    """Write a session to a file.

    'keepgate import' reads it, here or at another server. The session goes on.
    """
    with connected(server) as client:
        blob = client.attach(session).export()
    if file == STANDARD:
        sys.stdout.buffer.write(blob)
    else:
        file.write_bytes(blob)
    typer.echo(f"Session '{session}' takes {size(len(blob))}.", err=True)


def import_session(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            dir_okay=False,
            help="What 'keepgate export' wrote; - for stdin.",
            allow_dash=True,
        ),
    ],
    server: Server,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Model to go on with, NAME or NAME/VERSION; whichever has the session's weights if none.",
            callback=text_argument,
        ),
    ] = "",
    new_id: NewId = "",
    idle_ttl: Ttl = None,
    durability: Lasting = None,
) -> None:
    """Read a session from a file; prints the new id.

    It goes on where the session was that 'keepgate export' wrote.
    """
    blob = sys.stdin.buffer.read() if file == STANDARD else file.read_bytes()
    with connected(server) as client:
        session = client.import_session(
            blob, *name_and_version(model), new_id, idle_ttl, durability=_value(durability)
        )
    typer.echo(session.session_id)
    typer.echo(f"{session.model}/{session.version} at position {session.position:,}", err=True)


def _value(durability: Durability | None) -> DurabilityName | None:
    return None if durability is None else durability.value


def _as_dict(session: SessionInfo) -> dict[str, object]:
    fields = dataclasses.asdict(session)
    del fields["oldest_position"]  # a list does not tell it
    return fields


def _duration(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
