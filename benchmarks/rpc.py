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
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import grpc.aio
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
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TINY = "tiny"
"""8 units over 16 tokens: its computation costs next to nothing."""
START_SECONDS = 120.0
WARM_UP = 0.2
"""Share of each measurement's time that is not counted."""
ECHO = "echo"


@dataclass(frozen=True)
class Sample:
    """One server under one load in one round. Latencies and server_us are microseconds a step."""

    server: str
    call: str
    sessions: int
    steps_per_second: float
    p50_us: float
    p99_us: float
    server_us: float


@dataclass(frozen=True)
class Target:
    """A server to measure; `model` is what its sessions open, None for the echo server."""

    name: str
    address: str
    pid: int
    model: str | None


def processor_seconds(pid: int) -> float:
    """User and system time that a process has spent (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """N sessions that step as fast as they are answered, for some seconds."""

    def __init__(self, stub: Any, session_ids: list[str], seconds: float) -> None:
        self._stub = stub
        self._session_ids = session_ids
        self._begin = time.perf_counter() + seconds * WARM_UP
        self._end = time.perf_counter() + seconds
        self._latencies: list[float] = []

    def _request(self, session_id: str, position: int) -> pb.StepRequest:
        inputs = pb.Inputs(tokens=pb.Tokens(ids=[position % 16]))
        return pb.StepRequest(session_id=session_id, position=position, inputs=inputs)

    def _note(self, sent: float) -> bool:
        """Count an answer; whether to go on."""
        now = time.perf_counter()
        if self._begin <= now < self._end:
            self._latencies.append(now - sent)
        return now < self._end

    async def steps(self) -> None:
        async def one(session_id: str) -> None:
            position = 0
            while True:
                sent = time.perf_counter()
                answer = await self._stub.Step(self._request(session_id, position))
                position = answer.position
                if not self._note(sent):
                    return

        await asyncio.gather(*(one(session_id) for session_id in self._session_ids))

    async def stream(self) -> None:
        call = self._stub.Stream()
        sent = [0.0] * len(self._session_ids)

        async def send(index: int, position: int) -> None:
            sent[index] = time.perf_counter()
            step = self._request(self._session_ids[index], position)
            await call.write(pb.StreamRequest(request_id=index, step=step))

        for index in range(len(sent)):
            await send(index, 0)
        running = len(sent)
        async for answer in call:
            if answer.WhichOneof("result") != "step":
                raise RuntimeError(f"a step failed: {answer.error.message}")
            if self._note(sent[answer.request_id]):
                await send(answer.request_id, answer.step.position)
            else:
                running -= 1
                if not running:
                    await call.done_writing()

    def result(self, target: Target, call: str, server_seconds: float) -> Sample:
        micros = np.array(self._latencies) * 1e6
        p50, p99 = np.percentile(micros, [50, 99])
        # Processor time is taken over the whole load, latencies over all but the warm-up.
        steps = len(micros) / (1 - WARM_UP)
        return Sample(
            server=target.name,
            call=call,
            sessions=len(self._session_ids),
            steps_per_second=len(micros) / (self._end - self._begin),
            p50_us=float(p50),
            p99_us=float(p99),
            server_us=server_seconds / steps * 1e6,
        )


async def measure(target: Target, call: str, sessions: int, seconds: float) -> Sample:
    """Open the sessions, load the server, close them."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        make_stub: Any = sequences_pb2_grpc.SequencesStub  # generated without types
        stub = make_stub(channel)
        session_ids = [f"benchmark-{secrets.token_hex(4)}-{index:04}" for index in range(sessions)]
        if target.model:
            opens = [pb.OpenRequest(model=target.model, session_id=session_id) for session_id in session_ids]
            await asyncio.gather(*(stub.Open(request) for request in opens))
        spent = processor_seconds(target.pid)
        load = Load(stub, session_ids, seconds)
        await (load.steps() if call == "Step" else load.stream())
        spent = processor_seconds(target.pid) - spent
        if target.model:
            closes = [pb.CloseRequest(session_id=session_id) for session_id in session_ids]
            await asyncio.gather(*(stub.Close(request) for request in closes))
        return load.result(target, call, spent)


@contextmanager
def process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server process, ended at the end of the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KEEPGATE_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**clean, **environment}
    ) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)


@contextmanager
def echo_server() -> Iterator[Target]:
    with process([sys.executable, str(HERE / "echo_server.py")]) as running:
        address = running.stdout.readline().strip() if running.stdout else ""
        yield Target(ECHO, address, running.pid, None)


@contextmanager
def keepgate_server(folder: Path, models: list[str], **settings: str) -> Iterator[list[Target]]:
    """One server with all models, as a target for each of them. settings: KEEPGATE_* by their names."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    environment = {
        "KEEPGATE_MODELS": str(folder / "models"),
        "KEEPGATE_PORT": "0",
        "KEEPGATE_ADMIN_ADDRESS": "",
        "KEEPGATE_HTTP_ADDRESS": "127.0.0.1:0",
        "KEEPGATE_READY_FILE": str(ready),
        "KEEPGATE_LOG_LEVEL": "error",
        **settings,
    }
    with process([sys.executable, "-m", "keepgate", "serve"], **environment) as running:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the Keepgate server did not start")
            time.sleep(0.02)
        address = ready.read_text().strip()
        yield [Target(f"keepgate {model}", address, running.pid, model) for model in models]


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
