"""Draw docs/cells/*.png from training/results/*.json and print the tables of docs/cells.md.

    python training/plot_cells.py

bits.png: held-out bits a character against steps, and against one core's training time, which
is steps times the processor seconds of a step (``measure_training.py``). Faint lines: runs with
a second seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

matplotlib.use("Agg")

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FIGURES = HERE.parent / "docs" / "cells"
TITLES = {"rnn": "RNN (tanh)", "lstm": "LSTM", "cifg": "coupled-gate LSTM", "gru": "GRU"}
# Okabe and Ito's palette, told apart by colour-blind readers, and markers for print.
STYLES = {
    "rnn": ("#000000", "s"),
    "lstm": ("#0072B2", "o"),
    "cifg": ("#E69F00", "^"),
    "gru": ("#D55E00", "D"),
}
THRESHOLDS = (2.3, 2.2, 2.1, 2.0)
REQUIRED_BITS = 2.1
TOP = 2.5  # bits; the first evaluations lie above and would flatten the rest


def curve_of(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(steps [P], held-out bits [P]) of a run."""
    points = record["curve"]
    return (
        np.array([p["step"] for p in points], dtype=float),
        np.array([p["held_out_bits"] for p in points]),
    )


def first_reached(x: np.ndarray, bits: np.ndarray, threshold: float) -> float | None:
    """Where the curve first crosses ``threshold``, linear between evaluations; None if never."""
    below = np.flatnonzero(bits <= threshold)
    if not below.size:
        return None
    k = int(below[0])
    if k == 0:
        return float(x[0])
    share = (bits[k - 1] - threshold) / (bits[k - 1] - bits[k])
    return float(x[k - 1] + share * (x[k] - x[k - 1]))


def second_seeds() -> dict[str, Any]:
    """Records of the runs with another seed, by cell; not every cell has one."""
    paths = {cell: RESULTS / f"{cell}-seed2.json" for cell in TITLES}
    return {cell: json.loads(path.read_text()) for cell, path in paths.items() if path.exists()}


def draw(axes: Axes, records: dict[str, Any], scale: dict[str, float], label: str) -> None:
    """Draw every cell's curve with its steps multiplied by ``scale[cell]``."""
    for cell, record in second_seeds().items():
        steps, bits = curve_of(record)
        axes.plot(steps * scale[cell], bits, color=STYLES[cell][0], linewidth=1, alpha=0.4)
    for cell, record in records.items():
        steps, bits = curve_of(record)
        colour, marker = STYLES[cell]
        axes.plot(
            steps * scale[cell],
            bits,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.5,
            label=f"{TITLES[cell]}, {record['held_out_bits']:.3f} bits",
        )
    axes.axhline(REQUIRED_BITS, color="0.6", linewidth=1, linestyle="--", zorder=0)
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_figure(records: dict[str, Any], minutes: dict[str, float]) -> None:
    """Write bits.png. minutes: minutes a step, by cell."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    draw(left, records, dict.fromkeys(records, 1.0), "optimiser steps (4,096 characters each)")
    draw(right, records, minutes, "training time, minutes of one core")
    lowest = min(curve_of(record)[1].min() for record in records.values())
    left.set_ylim(lowest - 0.03, TOP)
    left.set_ylabel("held-out bits a character")
    left.legend(frameon=False)
    figure.tight_layout()
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "bits.png", dpi=130)


def cells_of(values: list[float | None], form: str) -> str:
    """Table cells; a dash for what was never reached."""
    return " | ".join("-" if value is None else format(value, form) for value in values)


def print_tables(records: dict[str, Any], minutes: dict[str, float]) -> None:
    """The tables of docs/cells.md, as Markdown."""
    for cell, record in second_seeds().items():
        print(f"{TITLES[cell]}, second seed: {record['held_out_bits']:.3f} bits")
    for cell, record in records.items():
        steps, bits = curve_of(record)
        final, last = record["held_out_bits"], record["curve"][-1]
        row = [record["parameters"], record["parameters_recurrent_layer"], final]
        print(f"| {TITLES[cell]} | {row[0]:,} | {row[1]:,} | {final:.3f} |", end=" ")
        print(f"{last['training_bits']:.3f} | {minutes[cell] * 60e3:.0f} |", end=" ")
        print(f"{minutes[cell] * steps[-1]:.1f} |")
    print()
    for cell, record in records.items():
        steps, bits = curve_of(record)
        reached = [first_reached(steps, bits, threshold) for threshold in THRESHOLDS]
        times = [None if r is None else r * minutes[cell] for r in reached]
        print(f"| {TITLES[cell]} | {cells_of(reached, ',.0f')} | {cells_of(times, '.1f')} |")


def main() -> None:
    """Draw and print."""
    records = {cell: json.loads((RESULTS / f"{cell}.json").read_text()) for cell in TITLES}
    measured = json.loads((RESULTS / "training_step.json").read_text())
    minutes = {cell: measured[cell]["cpu_seconds"] / 60 for cell in records}
    draw_figure(records, minutes)
    print_tables(records, minutes)


if __name__ == "__main__":
    main()
