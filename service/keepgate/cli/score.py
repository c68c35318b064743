"""keepgate score: how well a model knows a text, and what each precision costs."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepgate.cli import local
from keepgate.cli.output import (
    Json,
    Server,
    connected,
    console,
    fail,
    name_and_version,
    open_text_session,
    print_json,
    size,
)

if TYPE_CHECKING:
    from keepgate_client import InvalidArgumentError, Session
    from rich.progress import Progress

    from keepgate.models.format import LoadedFile
    from keepgate.scoring import PrecisionScore

SCORED_AT_ONCE = 4096
"""Characters a request: far below any limit, and enough to make the round trip cheap."""


def score(
    model: local.ModelOrFile,
    file: Annotated[
        typer.FileText, typer.Argument(metavar="FILE", help="UTF-8 text; '-' reads stdin.", encoding="utf-8")
    ],
    server: Server,
    models: local.Models = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRECISION",
            help="Compute here instead of asking a server, and say what this precision costs; several with "
            "commas or by repeating the option, or 'all'.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how well a model predicts a text.

    In bits a character: less is better. With --precision, the precisions are compared: bits, memory and
    time. The model is then read from --models, else from the repository that 'keepgate serve' would serve.
    """
    text = _read(file)
    if precision or models or local.is_file(model):
        _score_here(model, models, precision, text, file.name, as_json)
        return
    name, version = name_and_version(model)
    with connected(server) as client, open_text_session(client, name, version) as session:
        log_likelihood, scored = 0.0, 0
        for likelihood, count in _scores(session, text, file.name):
            log_likelihood += likelihood
            scored += count
        found = client.model(session.model, session.version)
    _print_score(f"{found.name}/{found.version}", found.precision, log_likelihood, scored, as_json)


def _read(file: typer.FileText) -> str:
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        fail(f"{file.name}: not UTF-8 text: {error.reason} at byte {error.start}")
    if len(text) < 2:
        fail(f"{file.name}: got {len(text)} characters, expected at least 2")
    return text


def _print_score(model: str, precision: str, log_likelihood: float, scored: int, as_json: bool) -> None:
    bits = -log_likelihood / math.log(2) / scored
    if as_json:
        print_json(
            {
                "model": model,
                "precision": precision,
                "bits_per_character": bits,
                "characters": scored,
                "log_likelihood": log_likelihood,
            }
        )
    else:
        typer.echo(f"{bits:.4f} bits a character ({scored:,} characters scored by {model} in {precision})")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Scoring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    err = console(stderr=True)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield progress


# --- by a server ---


def _scores(session: Session, text: str, name: str) -> Iterator[tuple[float, int]]:
    """Log-likelihood and number of scored characters of each piece."""
    from keepgate_client import InvalidArgumentError

    with _progress() as progress:
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
            return f"{name}, line {_line(text, start + int(place[1]))}: {violation.description}"
    return str(error)


def _line(text: str, index: int) -> int:
    return text.count("\n", 0, index) + 1


# --- here ---


def _score_here(
    model: str, models: Path | None, wanted: list[str] | None, text: str, name: str, as_json: bool
) -> None:
    """Score in this process: a table of precisions if any are wanted, else as a server would."""
    from keepgate.errors import KeepgateError, UnknownCharacterError
    from keepgate.models.format import load_model
    from keepgate.models.precision import parse_precisions
    from keepgate.models.tokenizer import CharacterCodec
    from keepgate.scoring import score_precisions

    settings = local.settings()
    try:
        precisions = parse_precisions(wanted) if wanted else []
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    key, path = local.find(model, models, settings)
    label = local.label(*key)
    try:
        file = load_model(path, max_bytes=settings.max_model_bytes)
    except KeepgateError as error:
        fail(str(error))
    if file.spec.tokenizer is None:
        fail(f"model {label!r} has no tokenizer; expected a token model that takes text")
    try:
        tokens = CharacterCodec(file.spec.tokenizer.vocabulary).encode(text)
    except UnknownCharacterError as error:
        fail(
            f"{name}, line {_line(text, error.index)}: got {error.character!r}, expected a character of the "
            f"vocabulary of {label!r}"
        )
    chosen = precisions or [settings.precision.of(*key)]
    threads = settings.thread_count
    with _progress() as progress:
        task = progress.add_task("", total=len(tokens))
        try:
            scores = score_precisions(
                file, tokens, chosen, threads=threads, progress=lambda count: progress.advance(task, count)
            )
        except (ValueError, MemoryError) as error:
            fail(f"{path}: cannot be made ready: {error}")
    for each in scores:
        if not math.isfinite(each.log_likelihood):
            fail(f"{label!r} in {each.precision}: the score is not finite: the state overflows on this text")
    if not precisions:
        (only,) = scores
        _print_score(label, only.precision, only.log_likelihood, only.scored, as_json)
    elif as_json:
        print_json(_as_dict(label, file, threads, scores))
    else:
        _print_table(label, file, threads, scores)


def _exact(scores: list[PrecisionScore]) -> PrecisionScore | None:
    """The score that the others are compared with, if it was asked for."""
    from keepgate.models.precision import EXACT

    return next((each for each in scores if each.precision == EXACT), None)


def _as_dict(model: str, file: LoadedFile, threads: int, scores: list[PrecisionScore]) -> dict[str, Any]:
    exact = _exact(scores)
    return {
        "model": model,
        "characters": scores[0].scored,
        "parameters": file.spec.parameters,
        "file_bytes": file.file_bytes,
        "threads": threads,
        "precisions": [
            {
                "precision": each.precision,
                "bits_per_character": each.bits_per_token,
                "against_fp32": each.against(exact) if exact else None,
                "log_likelihood": each.log_likelihood,
                "weight_bytes": each.weight_bytes,
                "microseconds_per_character": 1e6 * each.seconds_per_token,
            }
            for each in scores
        ],
    }


def _print_table(model: str, file: LoadedFile, threads: int, scores: list[PrecisionScore]) -> None:
    from rich.table import Table

    exact = _exact(scores)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PRECISION", no_wrap=True)
    for column in ("BITS A CHARACTER", "AGAINST FP32", "WEIGHTS", "µs A CHARACTER"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in scores:
        table.add_row(
            each.precision,
            f"{each.bits_per_token:.5f}",
            "" if exact in (None, each) else f"{100 * each.against(exact):+.3f} %",
            size(each.weight_bytes),
            f"{1e6 * each.seconds_per_token:.2f}",
        )
    out = console()
    out.print(table)
    used = "1 thread" if threads == 1 else f"up to {threads} threads"
    out.print(
        f"{scores[0].scored:,} characters scored by {model}: {file.spec.parameters:,} parameters, "
        f"{size(file.file_bytes)} on disk; {used}",
        style="dim",
        soft_wrap=True,
    )
