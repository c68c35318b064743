"""The CUDA kernels beside cuDNN and torch.compile: checks, then times, in one run. `make bench-cuda`.

Needs a CUDA device, and PyTorch built for it. Times are device events, medians of rounds. Steps are replayed
as CUDA graphs on both sides. Sequences are launched; cuDNN's are replayed too, and the faster counts. cuDNN
runs fp16 beside bf16, for which PyTorch never asks it for its persistent kernels, and the ratio is to the
faster of the two. Beside each time stands the floor, the longest of bytes that must be moved over the
measured bandwidth of the L2 cache, bytes that it cannot hold over that of memory, and operations over the
measured peak. Writes JSON and a plot, and prints the table.

(Not called cuda.py: that would hide the package `cuda`, which numba-cuda imports, from every script beside
it.)
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path
from typing import Any

from cuda_bench.device import ceilings, floor_microseconds, name_of_device
from cuda_bench.problem import SEQUENCE_WIDTHS, WIDTHS, Problem, sequences, steps
from cuda_bench.pytorch import missing, versions
from keepgate_kernels.errors import DeviceMissingError

RESULTS = Path(__file__).parent / "results" / "cuda.json"
SHAPES = RESULTS.with_name("cuda-shapes.json")
PLOT = Path(__file__).parents[1] / "docs" / "performance-cuda.png"
MODES = ("default",)
TUNED = (*MODES, "max-autotune-no-cudagraphs")
"""What torch.compile is called with: the faster counts."""


def heading(modes: tuple[str, ...]) -> str:
    """The first two lines of the table."""
    names = (
        *("cell", "precision", "H", "batch", "T", "Keepgate, µs a step", "cuDNN, µs", "cuDNN in fp16, µs"),
        *("faster cuDNN / Keepgate", f"torch.compile ({' or '.join(modes)}), µs", "floor, µs"),
    )
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|"


def cudnn(problem: Problem, precision: str) -> float | None:
    """cuDNN's time in a 16-bit precision, or None if it refuses: what it has depends on its version."""
    from cuda_bench.pytorch import Peer  # noqa: PLC0415

    try:
        return Peer(problem, precision).cudnn_microseconds()
    except RuntimeError as error:
        print(f"cuDNN in {precision}, {problem}: {error}", file=sys.stderr)
        return None


def measure(problem: Problem, limits: dict[str, float], modes: tuple[str, ...]) -> dict[str, Any]:
    """Check and time both sides of one problem, one after the other. Raises RuntimeError if cuDNN refuses."""
    from cuda_bench.ours import Ours  # noqa: PLC0415
    from cuda_bench.pytorch import Peer  # noqa: PLC0415

    ours = Ours(problem).layer_microseconds()
    gc.collect()  # memory that is freed while PyTorch captures a graph spoils the graph
    half = problem.precision == "bf16"
    peer = Peer(problem, problem.precision)
    found = {
        **problem._asdict(),
        "keepgate": ours,
        "cudnn": cudnn(problem, "bf16") if half else peer.cudnn_microseconds(),
        "cudnn_fp16": cudnn(problem, "fp16") if half else None,
        "compiled": peer.compiled_microseconds(modes) if problem.steps == 1 else None,
        "modes": modes,
    }
    if found["cudnn"] is None and found["cudnn_fp16"] is None:
        raise RuntimeError(f"{problem}: cuDNN ran in no precision")
    floor = floor_microseconds(problem.least_bytes, problem.operations, problem.precision, limits)
    return {**found, "floor": floor / problem.steps}


def ratio(found: dict[str, Any]) -> float:
    """The faster of cuDNN's times over Keepgate's."""
    times = [time for time in (found["cudnn"], found["cudnn_fp16"]) if time is not None]
    return float(min(times) / found["keepgate"])


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    cudnn, half, compiled = (
        "" if found[name] is None else f"{found[name]:.2f}" for name in ("cudnn", "cudnn_fp16", "compiled")
    )
    return (
        f"| {found['cell']} | {found['precision']} | {found['width']} | {found['batch']} | {found['steps']} |"
        f" {found['keepgate']:.2f} | {cudnn} | {half} | {ratio(found):.2f} | {compiled} |"
        f" {found['floor']:.2f} |"
    )


def others(device: dict[str, Any], chosen: list[int]) -> list[dict[str, Any]]:
    """What was found before on the same device, with the same versions, for widths that are not chosen."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if any(known.get(name) != value for name, value in device.items()):
        return []
    return [found for found in known["results"] if found["width"] not in chosen]


def draw(results: list[dict[str, Any]], device: str) -> None:
    """Ratio to cuDNN by batch, a line for each width, of the LSTM's steps in bf16."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 4))
    for width in WIDTHS:
        wanted = ("lstm", "bf16", width, 1)
        line = [r for r in results if (r["cell"], r["precision"], r["width"], r["steps"]) == wanted]
        if line:
            axes.plot([r["batch"] for r in line], list(map(ratio, line)), label=f"H = {width}")
    axes.set(
        xscale="log",
        xlabel="sessions",
        ylabel="cuDNN's time, bf16 or fp16, / Keepgate's",
        title=f"LSTM step, bf16, {device}",
    )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.legend()
    figure.savefig(PLOT, dpi=120, bbox_inches="tight")


def main() -> None:
    """Measure all, or with --width only some widths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    widths = sorted({*WIDTHS, *SEQUENCE_WIDTHS})
    parser.add_argument(
        "--width", type=int, action="append", choices=widths, help="only this width, keeping what others gave"
    )
    parser.add_argument(
        "--autotune", action="store_true", help="torch.compile in a mode too that takes long to compile"
    )
    parser.add_argument("--shapes", action="store_true", help="time our own kernels' shapes, and no peers")
    parser.add_argument("--device", action="store_true", help="only say which device there is")
    arguments = parser.parse_args()
    chosen, modes = arguments.width or widths, TUNED if arguments.autotune else MODES
    try:
        name = name_of_device()
    except DeviceMissingError as error:
        sys.exit(
            f"no GPU here: {error.reason}\nRun this where an NVIDIA GPU (sm_80 or newer) and its driver are."
        )
    if arguments.device:
        print(name)
        return
    if arguments.shapes:
        from cuda_bench.shapes import report  # noqa: PLC0415

        SHAPES.write_text(json.dumps({"device": name, "results": list(report(chosen))}, indent=1) + "\n")
        return
    if reason := missing():
        sys.exit(reason)
    from cuda_bench.ours import session_steps_a_second  # noqa: PLC0415

    limits, device = ceilings(), {"device": name, **versions()}
    print(
        f"{name}, PyTorch {device['torch']}, cuDNN {device['cudnn']}. Measured:"
        f" {limits['memory'] / 1e12:.2f} TB/s from memory, {limits['cache'] / 1e12:.2f} from the L2 cache of"
        f" {limits['cache_bytes'] / 2**20:.0f} MiB, {limits['bf16'] / 1e12:.0f} TFLOP/s in bf16,"
        f" {limits['fp32'] / 1e12:.0f} in fp32"
    )
    engine = session_steps_a_second()
    print(
        "LSTM-512, bf16, 4,096 sessions, sampled tokens on the host:"
        f" {engine / 1e6:.1f} million steps a second"
    )
    print(heading(modes), flush=True)
    results = others(device, chosen)
    for problem in (*steps(), *sequences()):
        if problem.width in chosen:
            results.append(measure(problem, limits, modes))
            print(row(results[-1]), flush=True)
    found = {**device, "ceilings": limits, "results": results, "engine": engine}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    draw(results, name)


if __name__ == "__main__":
    main()
