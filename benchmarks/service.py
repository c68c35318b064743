"""Keepgate beside what a team would write or take instead, in one run: the same weights, the same client.

Peers: a grpc.aio server written by hand on PyTorch, one on ONNX Runtime, and MLServer with a custom runtime.
A client of one process steps N sessions, one step a message, each sending its next step when the last is
answered. Before anything is measured, peers by hand are tuned under that load, and all servers have to
predict the same tokens. Servers take turns within each round; medians over the rounds are shown, and ratios
to the fastest peer of the same round.

    python benchmarks/service.py [--seconds 1.5] [--rounds 3] [--sessions 32] [--model lstm-128] [--out PATH]

The whole grid is written to benchmarks/results/service.json and into docs/performance.md, a part of it to
build/service.json. MLServer is looked for in .venv-peers/, as `make bench-service` installs it.
"""

from __future__ import annotations

import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rpc import machine
from service_bench import contenders, rounds, tables
from service_bench.models import CASES, write

SESSIONS = [1, 32, 256]
PACKAGES = ("keepgate", "grpcio", "protobuf", "torch", "onnxruntime")
PART = tables.ROOT / "build" / "service.json"
WIDTH = 120
"""Columns of a table where the output is no terminal."""


def measure(models: list[str], sessions: list[int], seconds: float, count: int) -> dict[str, Any]:
    """The document as it is written."""
    console, begin = Console(stderr=True), time.perf_counter()
    found = contenders.mlserver_version()
    document: dict[str, Any] = {
        "benchmark": "service",
        "machine": machine(),
        "packages": {name: version(name) for name in PACKAGES} | ({"mlserver": found} if found else {}),
        "seconds": seconds,
        "rounds": count,
        "left_out": [] if found else [contenders.MLSERVER],
        "cases": [],
    }
    for case in CASES:
        if case.name in models:
            with tempfile.TemporaryDirectory(prefix="keepgate-benchmark-") as folder:
                write(case, Path(folder))
                taken = rounds.measure_case(case, Path(folder), sessions, seconds, count, console.print)
            document["cases"].append(taken)
            console.print(f"{case.title}: {time.perf_counter() - begin:.0f} s")
    return document


def main(
    seconds: Annotated[float, typer.Option(min=0.2, help="Seconds of each measurement.")] = 1.5,
    count: Annotated[int, typer.Option("--rounds", min=1, help="How often each is taken.")] = 3,
    sessions: Annotated[list[int] | None, typer.Option(min=1, max=1024, help="Concurrent sessions.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="lstm-128, lstm-2x512.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
    redraw: Annotated[bool, typer.Option("--redraw", help="Measure nothing: tables anew.")] = False,
) -> None:
    """Measure the service beside its peers."""
    known = [case.name for case in CASES]
    if unknown := set(model or ()) - set(known):
        raise typer.BadParameter(f"got {', '.join(sorted(unknown))}, expected {', '.join(known)}")
    out = out or (PART if sessions or model else tables.RESULTS)
    if redraw:
        document = json.loads(out.read_text())
    else:
        document = measure(model or known, sessions or SESSIONS, seconds, count)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    for case in document["cases"]:
        console.print(tables.rich_table(case))
    for name in document["left_out"]:
        console.print(f"not measured: {name}", highlight=False)
    wrong = [line for case in document["cases"] for line in case["wrong"]]
    for line in wrong:
        console.print(f"[red]wrong answers, not timed: {line}[/red]", highlight=False)
    if out == tables.RESULTS and not wrong:
        tables.DOCUMENT.write_text(tables.with_figures(tables.DOCUMENT.read_text(), document))
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
