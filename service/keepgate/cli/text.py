"""keepgate generate, score: text from a model, and how well a model knows a text."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from keepgate.cli.output import (
    Json,
    Model,
    Server,
    connected,
    console,
    fail,
    name_and_version,
    print_json,
    text_argument,
)

if TYPE_CHECKING:
    from keepgate_client import Client, InvalidArgumentError, Session

SCORED_AT_ONCE = 4096
"""Characters a request: far below any limit, and enough to make the round trip cheap."""
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
    with connected(server) as client, _open(client, name, version) as session:
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


def score(
    model: Model,
    file: Annotated[
        typer.FileText, typer.Argument(metavar="FILE", help="UTF-8 text; '-' reads stdin.", encoding="utf-8")
    ],
    server: Server,
    as_json: Json = False,
) -> None:
    """Measure how well a model predicts a text.

    In bits a character: less is better.
    """
    name, version = name_and_version(model)
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        fail(f"{file.name}: not UTF-8 text: {error.reason} at byte {error.start}")
    if len(text) < 2:
        fail(f"{file.name}: got {len(text)} characters, expected at least 2")
    with connected(server) as client, _open(client, name, version) as session:
        log_likelihood, scored = 0.0, 0
        for likelihood, count in _scores(session, text, file.name):
            log_likelihood += likelihood
            scored += count
        model = f"{session.model}/{session.version}"
    bits = -log_likelihood / math.log(2) / scored
    if as_json:
        print_json(
            {
                "model": model,
                "bits_per_character": bits,
                "characters": scored,
                "log_likelihood": log_likelihood,
            }
        )
    else:
        typer.echo(f"{bits:.4f} bits a character ({scored:,} characters scored by {model})")


def _open(client: Client, name: str, version: str) -> Session:
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


def _scores(session: Session, text: str, name: str) -> Iterator[tuple[float, int]]:
    """Log-likelihood and number of scored characters of each piece, with a bar on a terminal."""
    from keepgate_client import InvalidArgumentError
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Scoring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    err = console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=len(text))
        for start in range(0, len(text), SCORED_AT_ONCE):
            piece = text[start : start + SCORED_AT_ONCE]
            try:
                result = session.score(text=piece)
            except InvalidArgumentError as error:
                fail(_place(error, text, start, name))
            progress.advance(task, len(piece))
            yield result.log_likelihood, result.scored


def _place(error: InvalidArgumentError, text: str, start: int, name: str) -> str:
    """The error with its line of the file instead of its place in the piece that began at
    `start`."""
    for violation in error.violations:
        if place := re.fullmatch(r"inputs\.text\[(\d+)\]", violation.field):
            line = text.count("\n", 0, start + int(place[1])) + 1
            return f"{name}, line {line}: {violation.description}"
    return str(error)
