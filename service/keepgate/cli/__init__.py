"""The command `keepgate`.

Exit codes: 0 done, 1 failed, 2 wrong usage. What a command is asked for goes to stdout, all else to
stderr. Modules that take long to import (Numba, gRPC, pydantic) are imported by the commands that
need them, so that `keepgate --help` answers at once.
"""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from typing import Annotated

import typer

from keepgate.cli import admin, generate, info, inspect, score, serve, sessions, top
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
app.command(name="list")(inspect.list_models)
app.command()(inspect.show)
app.command()(generate.generate)
app.command()(score.score)
app.command()(sessions.sessions)
app.command()(sessions.fork)
app.command()(sessions.rewind)
app.command()(sessions.export)
app.command(name="import")(sessions.import_session)
app.command()(info.info)
app.command()(info.health)
app.command()(top.top)
app.command()(admin.reload)
app.command()(admin.load)
app.command()(admin.unload)
app.command()(admin.drain)

__all__ = ["app"]
