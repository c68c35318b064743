"""The command `keepgate`.

Exit codes: 0 done, 1 failed, 2 wrong usage. What a command is asked for goes to stdout, all else to
stderr. Modules that take long to import (Numba, gRPC, pydantic) are imported by the commands that
need them, so that `keepgate --help` answers at once.
"""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from typing import Annotated

import typer

from keepgate.cli import admin, generate, info, inspect, score, serve, sessions, token, top
from keepgate.cli.access import connecting
from keepgate.cli.output import Commands

app = typer.Typer(
    name="keepgate",
    cls=Commands,
    help="A server of gated recurrent networks, and a client for it.",
    epilog="Start with 'keepgate serve'; in another terminal, 'keepgate list'.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # boxes cut long flags off, and plain help comes sooner
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from keepgate import __version__

        typer.echo(f"keepgate {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A server of gated recurrent networks, and a client for it."""


app.command(context_settings=serve.PASSED_ON, add_help_option=False)(serve.serve)
app.command(name="list")(connecting(inspect.list_models))
app.command()(connecting(inspect.show))
app.command()(connecting(generate.generate))
app.command()(connecting(score.score))
app.command()(connecting(sessions.sessions))
app.command()(connecting(sessions.fork))
app.command()(connecting(sessions.rewind))
app.command()(connecting(sessions.export))
app.command(name="import")(connecting(sessions.import_session))
app.command()(info.info)
app.command()(connecting(info.health))
app.command()(top.top)
app.command()(connecting(admin.reload))
app.command()(connecting(admin.load))
app.command()(connecting(admin.unload))
app.command()(connecting(admin.drain))
app.command()(token.token)

__all__ = ["app"]
