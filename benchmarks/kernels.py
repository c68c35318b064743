"""One recurrent step with state: Keepgate's kernels beside PyTorch, ONNX Runtime and OpenVINO, in one run.

A step is what a server does for a batch of sessions at each tick: x, h (and c) in, h' (and c') out, one
thread. Every contender is checked against the float64 reference, then timed: all contenders of a case take
turns, and medians over the rounds count. The machine's limits are measured in the same rounds: how fast a
buffer of the weights' size is read, and how many operations a second the instructions of a product reach.

    python benchmarks/kernels.py [--quick] [--cells lstm] [--hidden 512] [--batch 64] [--out PATH]

The whole grid is written to benchmarks/results/kernels.json and into docs/performance.md, a part of it to
build/kernels.json.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from keepgate_kernels import CellKind
from kernel_bench import tables
from kernel_bench.files import DOCUMENT, PART, PLOT, RESULTS, with_figures
from kernel_bench.machine import machine
from rich.console import Console

CELLS = ["lstm", "gru"]
HIDDEN = [128, 256, 512, 1024]
BATCHES = [1, 8, 64, 256]
ROUNDS = 21
QUICK_ROUNDS = 5
WIDTH = 170
"""Columns of a table where the output is no terminal."""


def measure(cells: list[str], hidden: list[int], batches: list[int], rounds: int) -> dict[str, Any]:
    """Measure the grid and the token case; the document as it is written."""
    # The peers are imported where they are used: --redraw needs none of them.
    from kernel_bench.measure import Measurement  # noqa: PLC0415

    console = Console(stderr=True)
    facts, begin = machine(), time.perf_counter()
    measurement = Measurement(rounds)
    cases = []
    for cell in cells:
        for size in hidden:
            for batch in batches:
                case_begin = time.perf_counter()
                cases.append(measurement.case(CellKind(cell), size, batch))
                console.print(f"{cell} H={size} batch={batch}: {time.perf_counter() - case_begin:.0f} s")
    document = {
        "benchmark": "kernels",
        "machine": facts,
        "rounds": rounds,
        "left_out": measurement.left_out,
        "wrong": measurement.wrong,
        "cases": cases,
        "tokens": measurement.token_case(),
    }
    document["seconds"] = round(time.perf_counter() - begin)
    return document


def show(document: dict[str, Any]) -> None:
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    for table in tables.rich_tables(document):
        console.print(table)
    for line in tables.peak_lines(document):
        console.print("peak " + line.removeprefix("- "), highlight=False)
    for name, reason in document["left_out"].items():
        console.print(f"not measured: {name}: {reason}", highlight=False)
    for line in document["wrong"]:
        console.print(f"[red]wrong result, not timed: {line}[/red]", highlight=False)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="H 128 and 512, batch 1 and 64, 5 rounds.")] = False,
    cells: Annotated[list[CellKind] | None, typer.Option(help="lstm, gru.")] = None,
    hidden: Annotated[
        list[int] | None, typer.Option(min=16, help="Hidden units, also the input size.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Sessions of a step.")] = None,
    rounds: Annotated[int | None, typer.Option(min=3, help="Times each contender is measured.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes, and the plot beside it.")] = None,
    redraw: Annotated[bool, typer.Option("--redraw", help="Measure nothing: tables and plot anew.")] = False,
) -> None:
    """Measure one recurrent step beside PyTorch, ONNX Runtime and OpenVINO."""
    whole = not (quick or cells or hidden or batch)
    out = out or (RESULTS if whole else PART)
    if redraw:
        document = json.loads(out.read_text())
    else:
        document = measure(
            [cell.value for cell in cells] if cells else CELLS,
            hidden or ([128, 512] if quick else HIDDEN),
            batch or ([1, 64] if quick else BATCHES),
            rounds or (QUICK_ROUNDS if quick else ROUNDS),
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
    from kernel_bench.roofline import draw  # noqa: PLC0415 - needs Matplotlib

    show(document)
    if out == RESULTS:
        draw(document, PLOT)
        DOCUMENT.write_text(with_figures(DOCUMENT.read_text(), document))
    else:
        draw(document, out.with_suffix(".png"))
    if document["wrong"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
