"""Every shape that a product may take, timed beside the one that it chooses and beside what was estimated."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Any

from cuda_bench.device import megahertz
from cuda_bench.ours import Ours
from cuda_bench.problem import BATCHES, CELLS, WIDTHS, Problem
from keepgate_kernels import PRECISIONS
from keepgate_kernels.cuda.choice import choices, clocks, fits, index_of
from keepgate_kernels.cuda.launch import limits
from keepgate_kernels.cuda.tiles import SHAPES

CLOSE = 1.1
"""Times the fastest shape's time, within which a choice is as good as any."""
COLUMNS = (
    *("cell", "precision", "H", "batch", "chosen", "fastest", "chosen / fastest"),
    *(f"{shape.name}, µs (estimated)" for shape in SHAPES),
)


def grid(widths: Iterable[int]) -> list[Problem]:
    """Steps of many sessions, in every precision."""
    return [
        Problem(c, p, w, b) for c in CELLS for p in PRECISIONS for w in widths if w in WIDTHS for b in BATCHES
    ]


def compare(problem: Problem) -> dict[str, Any]:
    """Times of the shapes that fit, measured and estimated, in µs, by name; which one is chosen."""
    ours, device = Ours(problem), limits()
    ((product, _),) = ours.backend._products[0]
    fitting = [shape for shape in SHAPES if fits(shape, product.gates, device)]
    measured = {shape.name: ours.layer_microseconds(shape) for shape in fitting}
    estimated = {
        shape.name: clocks(shape, product.work, problem.batch, device) / megahertz() for shape in fitting
    }
    chosen = choices(product.work, problem.batch, device)[index_of(problem.batch)].name
    gc.collect()
    return {**problem._asdict(), "chosen": chosen, "measured": measured, "estimated": estimated}


def loss(found: dict[str, Any]) -> float:
    """The chosen shape's time over the fastest one's."""
    return float(found["measured"][found["chosen"]] / min(found["measured"].values()))


def row(found: dict[str, Any]) -> str:
    """A line of the table: µs measured (estimated)."""
    measured, estimated = found["measured"], found["estimated"]
    times = (
        f"{measured[shape.name]:.1f} ({estimated[shape.name]:.1f})" if shape.name in measured else ""
        for shape in SHAPES
    )
    names = found["chosen"], min(measured, key=lambda name: measured[name])
    cells = (found["cell"], found["precision"], str(found["width"]), str(found["batch"]), *names)
    return f"| {' | '.join((*cells, f'{loss(found):.2f}', *times))} |"


def report(widths: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Print the table, then how often the choice was as good as any, and yield what was found."""
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    losses = []
    for problem in grid(widths):
        found = compare(problem)
        losses.append(loss(found))
        print(row(found), flush=True)
        yield found
    close = sum(each <= CLOSE for each in losses)
    print(
        f"within {CLOSE:.1f} of the fastest: {close} of {len(losses)} choices; the worst is {max(losses):.2f}"
    )
