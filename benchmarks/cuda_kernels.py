"""The CUDA kernels beside cuDNN and torch.compile: checks, then times, in one run. `make bench-cuda`.

Needs a CUDA device, and PyTorch built for it. Times are device events, medians of rounds; both sides are
replayed as CUDA graphs. Beside each time stands the floor: bytes that must be moved over the measured
bandwidth, or operations over the measured peak, whichever is larger. Writes JSON and a plot, and prints the
table.

(Not called cuda.py: that would hide the package `cuda`, which numba-cuda imports, from every script beside
it.)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from cuda_bench.device import ceilings, floor_microseconds, name_of_device
from cuda_bench.problem import SEQUENCE_WIDTHS, WIDTHS, Problem, sequences, steps
from keepgate_kernels.errors import DeviceMissingError

RESULTS = Path(__file__).parent / "results" / "cuda.json"
PLOT = Path(__file__).parents[1] / "docs" / "performance-cuda.png"
HEAD = (
    "| cell | precision | H | batch | T | Keepgate, µs a step | cuDNN, µs | ratio | torch.compile, µs |"
    " floor, µs |"
)


def measure(problem: Problem, limits: dict[str, float]) -> dict[str, Any]:
    """Check and time both sides of one problem, one after the other."""
    from cuda_bench.ours import Ours  # noqa: PLC0415
    from cuda_bench.pytorch import Peer  # noqa: PLC0415

    ours, peer = Ours(problem).layer_microseconds(), Peer(problem)
    floor = floor_microseconds(problem.least_bytes, problem.operations, problem.precision, limits)
    return {
        **problem._asdict(),
        "keepgate": ours,
        "cudnn": peer.layer_microseconds(),
        "compiled": peer.compiled_microseconds() if problem.steps == 1 else None,
        "floor": floor / problem.steps,
    }


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    compiled = "" if found["compiled"] is None else f"{found['compiled']:.2f}"
    return (
        f"| {found['cell']} | {found['precision']} | {found['width']} | {found['batch']} | {found['steps']} |"
        f" {found['keepgate']:.2f} | {found['cudnn']:.2f} | {found['cudnn'] / found['keepgate']:.2f} |"
        f" {compiled} | {found['floor']:.2f} |"
    )


def draw(results: list[dict[str, Any]], device: str) -> None:
    """Ratio to cuDNN by batch, a line for each width, of the LSTM's steps in bf16."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4))
    for width in WIDTHS:
        line = [
            r
            for r in results
            if (r["cell"], r["precision"], r["width"], r["steps"]) == ("lstm", "bf16", width, 1)
        ]
        axes.plot(
            [r["batch"] for r in line], [r["cudnn"] / r["keepgate"] for r in line], label=f"H = {width}"
        )
    axes.set(
        xscale="log",
        xlabel="sessions",
        ylabel="cuDNN's time / Keepgate's",
        title=f"LSTM step, bf16, {device}",
    )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.legend()
    figure.savefig(PLOT, dpi=120, bbox_inches="tight")


def main() -> None:
    """Measure all, or with --width only some widths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    widths = sorted({*WIDTHS, *SEQUENCE_WIDTHS})
    parser.add_argument("--width", type=int, action="append", choices=widths, help="only this width")
    chosen = parser.parse_args().width or widths
    try:
        device = name_of_device()
    except DeviceMissingError as error:
        sys.exit(
            f"no GPU here: {error.reason}\nRun this where an NVIDIA GPU (sm_80 or newer) and its driver are."
        )
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("matplotlib") is None:
        sys.exit("the peers are not installed: .venv-cuda/bin/python -m pip install torch matplotlib")
    from cuda_bench.ours import session_steps_a_second  # noqa: PLC0415

    limits = ceilings()
    print(f"{device}: {limits['bytes'] / 1e12:.2f} TB/s, bf16 {limits['bf16'] / 1e12:.0f} TFLOP/s measured")
    print(HEAD + "\n" + "|---" * (HEAD.count("|") - 1) + "|")
    results = []
    for problem in (*steps(), *sequences()):
        if problem.width in chosen:
            results.append(measure(problem, limits))
            print(row(results[-1]), flush=True)
    engine = session_steps_a_second()
    print(
        "LSTM-512, bf16, 4,096 sessions, sampled tokens on the host:"
        f" {engine / 1e6:.1f} million steps a second"
    )
    RESULTS.write_text(
        json.dumps({"device": device, "ceilings": limits, "results": results, "engine": engine}, indent=1)
        + "\n"
    )
    draw(results, device)


if __name__ == "__main__":
    main()
