"""Round trips of Step and Stream beside a bare gRPC echo server, in one run.

Servers are processes of their own; this process makes the load: N sessions, each sending its next step
when the last is answered; with Stream all of them share one call. The servers take turns within each
round, so that what else the machine does falls on all of them. Medians over the rounds are shown, and
ratios to the echo server of the same round.

Load generator and server run Python on a core each. Where the load generator is the slower one, round
trips a second say little about the server: "server us" is the processor time the server itself spent.

    python benchmarks/rpc.py [--seconds 1.5] [--rounds 3] [--model shakespeare-gru] [--json PATH]
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from keepgate.config import BUNDLED_MODELS
from keepgate.models.format import save_model
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    LayerSpec,
    ModelSpec,
    TokenInput,
    cpu_info,
)
from rich.console import Console
from rich.table import Table
from service_bench.load import Sample, Target, measure
from service_bench.processes import keepgate_server, process

HERE = Path(__file__).parent
TINY = "tiny"
"""8 units over 16 tokens: its computation costs next to nothing."""
ECHO = "echo"


@contextmanager
def echo_server() -> Iterator[Target]:
    with process([sys.executable, str(HERE / "echo_server.py")]) as running:
        address = running.stdout.readline().strip() if running.stdout else ""
        yield Target(ECHO, address, running.pid, None)


def write_models(folder: Path, model: str, source: Path) -> list[str]:
    """The tiny model, and beside it the one asked for, if the repository `source` has it."""
    spec = ModelSpec(TokenInput(16, 4), (LayerSpec(CellSpec(CellKind.GRU), 8),), CategoricalHead(16))
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(0, 0.3, shape).astype(np.float32) for n, shape in spec.tensors().items()}
    path = folder / TINY / "1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_model(path, spec, tensors)
    if not (source / model).is_dir():
        print(f"no model {model!r} in {source}: measuring the tiny one alone", file=sys.stderr)
        return [TINY]
    shutil.copytree(source / model, folder / model)
    return [TINY, model]


def run(targets: list[Target], sessions: list[int], seconds: float, rounds: int) -> list[list[Sample]]:
    """One list of samples a round."""
    return [
        [
            asyncio.run(measure(target, call, count, seconds))
            for call in ("Step", "Stream")
            for count in sessions
            for target in targets
        ]
        for _ in range(rounds)
    ]


def summarise(rounds: list[list[Sample]]) -> list[dict[str, Any]]:
    """Medians over the rounds of each load, with the median ratio to the echo server."""
    rows = []
    for index, first in enumerate(rounds[0]):
        column = [samples[index] for samples in rounds]
        echoes = [
            next(s for s in r if (s.server, s.call, s.sessions) == (ECHO, first.call, first.sessions))
            for r in rounds
        ]
        row: dict[str, Any] = {"server": first.server, "call": first.call, "sessions": first.sessions}
        for name in ("steps_per_second", "p50_us", "p99_us", "server_us"):
            row[name] = median(getattr(sample, name) for sample in column)
        row["ratio"] = median(
            s.steps_per_second / e.steps_per_second for s, e in zip(column, echoes, strict=True)
        )
        for name in ("p99_us", "server_us"):
            row[f"{name}_ratio"] = median(
                getattr(s, name) / getattr(e, name) for s, e in zip(column, echoes, strict=True)
            )
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Round trips beside a bare gRPC echo server (medians)", title_justify="left")
    for name in ("call", "sessions", "server"):
        table.add_column(name, no_wrap=True)
    for name in ("steps/s", "of echo", "p50 us", "p99 us", "of echo", "server us", "of echo"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1]["sessions"] != row["sessions"]
        table.add_row(
            row["call"],
            str(row["sessions"]),
            row["server"],
            f"{row['steps_per_second']:,.0f}",
            f"{row['ratio']:.0%}",
            f"{row['p50_us']:,.0f}",
            f"{row['p99_us']:,.0f}",
            f"{row['p99_us_ratio']:.2f}",
            f"{row['server_us']:,.0f}",
            f"{row['server_us_ratio']:.0%}",
            end_section=last,
        )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def machine() -> dict[str, Any]:
    packages = ("grpcio", "protobuf", "numba", "numpy", "keepgate")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        **{name: cpu_info()[name] for name in ("processor", "rung")},
    }


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 1.5,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is taken.")] = 3,
    sessions: Annotated[list[int] | None, typer.Option(min=1, help="Concurrent sessions.")] = None,
    model: Annotated[str, typer.Option(help="Model beside the tiny one.")] = "shakespeare-gru",
    models: Annotated[Path, typer.Option(help="Repository that has it.")] = BUNDLED_MODELS,
    json_path: Annotated[Path, typer.Option("--json", help="Where the figures go.")] = HERE
    / "results"
    / "rpc.json",
) -> None:
    """Measure round trips of Step and Stream beside a bare gRPC echo server."""
    facts = machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keepgate-benchmark-")))
        names = write_models(folder / "models", model, models)
        targets = [stack.enter_context(echo_server())]
        targets += stack.enter_context(keepgate_server(folder, names))
        taken = run(targets, sessions or [1, 32, 256], seconds, rounds)
    rows = summarise(taken)
    show(rows)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": "rpc",
        "machine": facts,
        "seconds": seconds,
        "rounds": rounds,
        "medians": rows,
        "samples": [[asdict(sample) for sample in samples] for samples in taken],
    }
    json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
