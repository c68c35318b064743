"""keepgate token: a fresh token, and its entry in the server's file."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from keepgate.cli.output import text_argument


def token(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The principal: whose token it is.", callback=text_argument)
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="sequences, models or admin; may be given several times. Without any: sequences and models.",
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=36_500, help="Days until it expires; else never.")
    ] = None,
) -> None:
    """Make a token: stderr gets the token, once, and stdout the entry for the server's tokens_file.

    The entry has a hash of the token, not the token: "keepgate token alice >> tokens.toml".
    """
    from keepgate.security.tokens import entry, new_token

    fresh = new_token()
    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    try:
        text = entry(fresh, name, scope, expires)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(text)
    typer.echo(f"{fresh}", err=True)
