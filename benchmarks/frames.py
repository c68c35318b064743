"""Column frames end to end: thousands of sessions, every drawn token fed back, beside the kernel alone.

The server is a process of its own; this process is the client. Frames have ROWS sessions each; one or two of
them are under way, two so that the server computes while the client thinks. The kernel alone is one thread in
this process that steps as many sessions, sampling included. Medians over the rounds, in which the
measurements take turns.

    python benchmarks/frames.py [--seconds 2] [--rounds 5] [--precision int8] [--json PATH]
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import grpc.aio
import numpy as np
import typer
from keepgate.models.format import save_model
from keepgate_client import AsyncClient
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc
from kernel_bench.tokens import SESSIONS as ROWS
from kernel_bench.tokens import SPEC, TEMPERATURE, Writers, random_tensors
from rich.console import Console
from rich.table import Table
from rpc import HERE, machine
from service_bench.load import Clock, Target, processor_seconds
from service_bench.processes import keepgate_server

MODEL = "lstm-128"
OPENED_AT_ONCE = 64
KERNEL_SECONDS = 0.5
WARM = 3


@dataclass(frozen=True)
class Sample:
    """One way of stepping. Latencies are of a frame; server_us is processor time of a frame of ROWS."""

    what: str
    precision: str
    steps_per_second: float
    p50_us: float
    p99_us: float
    server_us: float


async def open_sessions(stub: Any, count: int) -> list[str]:
    ids = [f"benchmark-{index:05}" for index in range(count)]
    for first in range(0, count, OPENED_AT_ONCE):
        part = ids[first : first + OPENED_AT_ONCE]
        await asyncio.gather(*(stub.Open(pb.OpenRequest(model=MODEL, session_id=name)) for name in part))
    return ids


async def messages(stub: Any, ids: list[str], frames: int, clock: Clock) -> None:
    """Frames as messages, without a client's library."""
    call = stub.StreamFrames()
    seeds = np.arange(len(ids), dtype="<u8").tobytes()
    sampling = pb.Sampling(temperature=TEMPERATURE)
    await call.write(pb.FramesRequest(bind=pb.Bind(session_ids=ids, sampling=sampling, seeds=seeds)))
    handles = np.frombuffer((await call.read()).bound.handles, "<u8").reshape(frames, ROWS)
    columns = [row.tobytes() for row in handles]
    positions = np.zeros((frames, ROWS), "<u8")
    sent = [0.0] * frames

    async def send(which: int, tokens: bytes) -> None:
        sent[which] = time.perf_counter()
        frame = pb.Frame(handles=columns[which], positions=positions[which].tobytes(), tokens=tokens)
        await call.write(pb.FramesRequest(request_id=which, frame=frame))

    for which in range(frames):
        await send(which, bytes(4 * ROWS))
    running = frames
    while running:
        answer = await call.read()
        if answer.WhichOneof("result") != "frame" or answer.frame.errors:
            raise RuntimeError(f"a frame failed: {answer}")
        which = answer.request_id
        positions[which] += 1
        if clock.note(sent[which], ROWS):
            await send(which, answer.frame.tokens)
        else:
            running -= 1
    await call.done_writing()
    await call.read()


async def groups(address: str, ids: list[str], frames: int, clock: Clock) -> None:
    """The same with the Python client, which sends what is lost again."""
    async with (
        AsyncClient(address) as client,
        client.group(ids, temperature=TEMPERATURE, seeds=range(len(ids))) as group,
    ):

        async def step(which: int) -> None:
            rows = np.arange(which * ROWS, (which + 1) * ROWS)
            tokens = np.zeros(ROWS, np.uint32)
            while True:
                sent = time.perf_counter()
                frame = await group.step(tokens=tokens, rows=rows)
                if frame.errors or frame.tokens is None:
                    raise RuntimeError(f"a frame failed: {frame.errors}")
                tokens = frame.tokens
                if not clock.note(sent, ROWS):
                    return

        await asyncio.gather(*(step(which) for which in range(frames)))


async def measure(target: Target, precision: str, how: str, frames: int, seconds: float) -> Sample:
    async with grpc.aio.insecure_channel(target.address) as channel:
        make_stub: Any = sequences_pb2_grpc.SequencesStub  # generated without types
        stub = make_stub(channel)
        ids = await open_sessions(stub, frames * ROWS)
        spent, clock = processor_seconds(target.pid), Clock(seconds)
        if how == "client":
            await groups(target.address, ids, frames, clock)
        else:
            await messages(stub, ids, frames, clock)
        spent = processor_seconds(target.pid) - spent
        for first in range(0, len(ids), OPENED_AT_ONCE):
            part = ids[first : first + OPENED_AT_ONCE]
            await asyncio.gather(*(stub.Close(pb.CloseRequest(session_id=name)) for name in part))
        taken = clock.sample("", "", ROWS, spent)
    what = f"{how}, {frames} frame{'s' if frames > 1 else ''} under way"
    return Sample(what, precision, taken.steps_per_second, taken.p50_us, taken.p99_us, taken.server_us * ROWS)


def kernel_alone(precision: str) -> Sample:
    """One thread, in this process."""
    writers = Writers(random_tensors(), precision)
    for _ in range(WARM):
        writers.step()
    taken: list[float] = []
    end = time.perf_counter() + KERNEL_SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        writers.step()
        taken.append(time.perf_counter() - begin)
    micros = np.array(taken) * 1e6
    p50, p99 = np.percentile(micros, [50, 99])
    return Sample(
        "kernel alone", precision, ROWS / float(np.median(taken)), float(p50), float(p99), float(p50)
    )


def run(precisions: list[str], seconds: float, rounds: int) -> list[list[Sample]]:
    """One list of samples a round."""
    taken: list[list[Sample]] = [[] for _ in range(rounds)]
    for precision in precisions:
        with tempfile.TemporaryDirectory(prefix="keepgate-benchmark-") as name:
            folder = Path(name)
            path = folder / "models" / MODEL / "1" / "model.safetensors"
            path.parent.mkdir(parents=True)
            save_model(path, SPEC, random_tensors())
            # One thread computes; gRPC and the client have the other core.
            settings = {"KEEPGATE_PRECISION": precision, "KEEPGATE_THREADS": "1"}
            with keepgate_server(folder, [MODEL], **settings) as (target,):
                for samples in taken:
                    samples.append(kernel_alone(precision))
                    for how in ("messages", "client"):
                        for frames in (1, 2):
                            samples.append(asyncio.run(measure(target, precision, how, frames, seconds)))
    return taken


def summarise(rounds: list[list[Sample]]) -> list[dict[str, Any]]:
    """Medians, and the median of the ratio to the kernel alone of the same round and precision."""
    rows = []
    for index, first in enumerate(rounds[0]):
        column = [samples[index] for samples in rounds]
        kernels = [
            next(s for s in samples if (s.what, s.precision) == ("kernel alone", first.precision))
            for samples in rounds
        ]
        row: dict[str, Any] = {"what": first.what, "precision": first.precision}
        for name in ("steps_per_second", "p50_us", "p99_us", "server_us"):
            row[name] = median(getattr(sample, name) for sample in column)
        row["of_kernel"] = median(
            s.steps_per_second / k.steps_per_second for s, k in zip(column, kernels, strict=True)
        )
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    title = f"LSTM-128, frames of {ROWS:,} sessions, tokens fed back (medians)"
    table = Table(title=title, title_justify="left")
    for name in ("precision", "what"):
        table.add_column(name, no_wrap=True)
    for name in ("steps/s", "of kernel", "p50 us", "p99 us", "server us"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        values = (f"{row[name]:,.0f}" for name in ("p50_us", "p99_us", "server_us"))
        table.add_row(
            row["precision"],
            row["what"],
            f"{row['steps_per_second']:,.0f}",
            f"{row['of_kernel']:.0%}",
            *values,
        )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is taken.")] = 5,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, bf16, int8.")] = None,
    json_path: Annotated[Path, typer.Option("--json", help="Where the figures go.")] = HERE
    / "results"
    / "frames.json",
) -> None:
    """Measure column frames beside the kernel alone."""
    facts = machine()
    taken = run(precision or ["fp32", "int8"], seconds, rounds)
    rows = summarise(taken)
    show(rows)
    document = {
        "benchmark": "frames",
        "machine": facts,
        "seconds": seconds,
        "rounds": rounds,
        "rows": ROWS,
        "medians": rows,
        "samples": [[asdict(sample) for sample in samples] for samples in taken],
    }
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
