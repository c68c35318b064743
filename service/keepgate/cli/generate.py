"""keepgate generate: text from a model."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from keepgate.cli.output import (
    Model,
    Server,
    connected,
    name_and_version,
    open_text_session,
    text_argument,
)

UINT32, UINT64 = 2**32 - 1, 2**64 - 1
"""The largest integers that the protocol's fields take."""
INTERRUPTED = 130
"""128 + SIGINT, as of a program that the signal ended."""


def generate(
    model: Model,
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT", help="Text to go on from; at least one character.", callback=text_argument
        ),
    ],
    server: Server,
    count: Annotated[
        int, typer.Option("-n", "--count", metavar="N", min=1, max=UINT32, help="Characters to generate.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option("--temperature", "-t", metavar="T", min=0, help="0 always takes the most probable."),
    ] = 0.7,
    top_k: Annotated[
        int,
        typer.Option(metavar="K", min=0, max=UINT32, help="Draw from the k most probable; 0 from all."),
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="P", min=0, max=1, help="Draw from the most probable that make up p; 0 from all."
        ),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(metavar="SEED", min=0, max=UINT64, help="The same seed draws the same text.")
    ] = 0,
) -> None:
    """Go on from a prompt, character by character.

    On a terminal the prompt is shown before the text; into a pipe or a file goes the text alone.
    """
    if not prompt:
        raise typer.BadParameter("expected at least one character", param_hint="'PROMPT'")
    name, version = name_and_version(model)
    show_all = sys.stdout.isatty() and sys.stderr.isatty()
    begin = time.perf_counter()
    drawn = 0
    with connected(server) as client, open_text_session(client, name, version) as session:
        text = ""
        tokens = session.generate(
            prompt, max_tokens=count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        try:
            for token in tokens:
                if show_all and not drawn:
                    typer.secho(prompt, nl=False, bold=True, err=True)
                text = token.text
                drawn += 1
                sys.stdout.write(text)
                sys.stdout.flush()
            if not text.endswith("\n"):
                typer.echo()
        except KeyboardInterrupt:
            typer.echo()
            raise typer.Exit(INTERRUPTED) from None
    if show_all:
        seconds = time.perf_counter() - begin
        typer.secho(f"{drawn} characters in {seconds:.2f} s", dim=True, err=True)
