"""The roofline plot: operations a byte against GOP/s, a panel for each cell and size.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009. A roof
is the smaller of the instruction's peak and intensity times the bandwidth with which a buffer of the weights'
size is read, both measured in the same run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from kernel_bench import figures
from kernel_bench.figures import PRECISIONS, Case
from kernel_bench.problem import OURS, PEAK
from kernel_bench.tables import TITLES

matplotlib.use("Agg")

# Okabe and Ito's palette, told apart by colour-blind readers, and markers for print.
STYLES = {"fp32": ("#0072B2", "o"), "bf16": ("#009E73", "^"), "int8": ("#D55E00", "s")}
PANEL_INCHES = (3.1, 2.9)
LEGEND_INCHES = 1.7
"""Width of an entry of the legend."""
MARGIN = 1.6
"""Room beyond the outermost points, as a factor."""


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the plot as PNG."""
    cells = list(dict.fromkeys(case["cell"] for case in document["cases"]))
    sizes = sorted({case["hidden"] for case in document["cases"]})
    figure, grid = pyplot.subplots(
        len(cells),
        len(sizes),
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(PANEL_INCHES[0] * len(sizes) + 0.4, PANEL_INCHES[1] * len(cells) + 0.7),
        layout="constrained",
    )
    span = _span(document["cases"])
    for row, cell in zip(grid, cells, strict=True):
        for axes, size in zip(row, sizes, strict=True):
            cases = [c for c in document["cases"] if (c["cell"], c["hidden"]) == (cell, size)]
            _panel(axes, sorted(cases, key=lambda case: int(case["batch"])), span)
            axes.set_title(f"{TITLES[cell]}, H = {size}", fontsize=10)
        row[0].set_ylabel("GOP/s")
    for axes in grid[-1]:
        axes.set_xlabel("operations a byte")
    columns = max(1, int(figure.get_figwidth() / LEGEND_INCHES))
    figure.legend(
        handles=_legend(document), loc="outside upper center", ncols=columns, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _span(cases: list[Case]) -> tuple[float, float]:
    values = [
        figures.intensity(case, precision)
        for case in cases
        for precision in PRECISIONS
        if figures.find(case, OURS, precision) or figures.fastest_peer(case, (precision,))
    ]
    return min(values) / MARGIN, max(values) * MARGIN


def _panel(axes: Axes, cases: list[Case], span: tuple[float, float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xlim(span)
    axes.grid(color="0.92", linewidth=0.6)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for precision, (colour, marker) in STYLES.items():
        own = [(case, entry) for case in cases if (entry := figures.find(case, OURS, precision))]
        peers = [(case, entry) for case in cases if (entry := figures.fastest_peer(case, (precision,)))]
        if own or peers:
            _roof(axes, cases, precision, span)
        for points, line, face in ((own, "-", colour), (peers, ":", "white")):
            axes.plot(
                [figures.intensity(case, precision) for case, _ in points],
                [figures.giga_operations(case, entry) for case, entry in points],
                linestyle=line,
                linewidth=1.2,
                color=colour,
                marker=marker,
                markersize=5,
                markerfacecolor=face,
                zorder=3,
            )


def _roof(axes: Axes, cases: list[Case], precision: str, span: tuple[float, float]) -> None:
    """A precision's limit; bf16 without an instruction of its own has fp32's, which is drawn already."""
    if not any(figures.find(case, PEAK, precision) for case in cases):
        return
    rates = [rate for case in cases if (rate := figures.bandwidth(case, precision)) is not None]
    peaks = [rate / 1e3 for case in cases if (rate := figures.peak_rate(case, precision)) is not None]
    if not rates or not peaks:
        return
    x = np.geomspace(*span, 200)
    y = np.minimum(np.median(peaks), x * np.median(rates))
    axes.plot(x, y, color=STYLES[precision][0], linewidth=4, alpha=0.22, solid_capstyle="butt", zorder=1)


def _legend(document: dict[str, Any]) -> list[Line2D]:
    handles = []
    for precision, (colour, marker) in STYLES.items():
        if any(figures.find(case, OURS, precision) for case in document["cases"]):
            handles.append(Line2D([], [], color=colour, marker=marker, label=f"Keepgate {precision}"))
        if any(figures.fastest_peer(case, (precision,)) for case in document["cases"]):
            label = f"best peer {precision}"
            handles.append(
                Line2D(
                    [], [], color=colour, marker=marker, markerfacecolor="white", linestyle=":", label=label
                )
            )
    handles.append(Line2D([], [], color="0.5", linewidth=4, alpha=0.4, label="limit"))
    return handles
