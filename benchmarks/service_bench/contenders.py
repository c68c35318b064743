"""Every server of the comparison: how it is started, and how a load reaches it."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc

from service_bench import infer
from service_bench.load import Sample, Target, measure
from service_bench.models import Case
from service_bench.processes import POLL_SECONDS, START_SECONDS, keepgate_server, process

BENCHMARKS = Path(__file__).resolve().parents[1]
MLSERVER_PYTHON = BENCHMARKS.parent / ".venv-peers" / "bin" / "python"
OURS = "Keepgate"
INT8 = "Keepgate int8"
BY_HAND = {"PyTorch by hand": "pytorch", "ONNX Runtime by hand": "onnx_runtime"}
"""Modules of the servers written by hand, by their names in tables."""
MLSERVER = "MLServer"
CALLS = {
    OURS: ("Stream", "Step", "StreamFrames"),
    INT8: ("Stream", "StreamFrames"),
    **dict.fromkeys(BY_HAND, ("Stream", "Step")),
    MLSERVER: ("ModelInfer",),
}
"""What carries the steps to each server."""


@dataclass(frozen=True)
class Placement:
    """Where a peer computes. in_thread: on a thread of its own rather than on the event loop."""

    threads: int
    in_thread: bool

    def arguments(self) -> list[str]:
        return ["--threads", str(self.threads), *(["--in-thread"] if self.in_thread else [])]

    def __str__(self) -> str:
        where = "beside the loop" if self.in_thread else "on the loop"
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, {where}"


@dataclass(frozen=True)
class Server:
    """One that runs. settings: what was chosen for it, in words. protocol: where it has ModelInfer."""

    target: Target
    settings: str
    protocol: infer.Protocol | None = None

    async def measure(self, call: str, sessions: int, seconds: float) -> Sample:
        """What this load reaches."""
        if self.protocol is not None:
            return await infer.measure(self.target, self.protocol, sessions, seconds)
        return await measure(self.target, call, sessions, seconds)

    async def answers(self, tokens: list[int]) -> list[int]:
        """The greedy token after each of these, in a session of its own."""
        if self.protocol is not None:
            return await infer.answers(self.target, self.protocol, tokens)
        session_id = f"checked-{secrets.token_hex(4)}"
        async with grpc.aio.insecure_channel(self.target.address) as channel:
            make_stub: Any = sequences_pb2_grpc.SequencesStub  # generated without types
            stub = make_stub(channel)
            await stub.Open(pb.OpenRequest(model=self.target.model, session_id=session_id))
            found = []
            for position, token in enumerate(tokens):
                inputs = pb.Inputs(tokens=pb.Tokens(ids=[token]))
                step = pb.StepRequest(session_id=session_id, position=position, inputs=inputs)
                found.append((await stub.Step(step)).prediction.token)
            await stub.Close(pb.CloseRequest(session_id=session_id))
            return found


@contextmanager
def keepgate(case: Case, folder: Path, name: str = OURS) -> Iterator[Server]:
    """As it is installed: every setting at its default, but for the log, and for the precision of INT8."""
    settings = {"KEEPGATE_PRECISION": "int8"} if name == INT8 else {}
    with keepgate_server(folder, [case.name], **settings) as (target,):
        yield Server(replace(target, name=name), "int8 weights" if settings else "defaults")


@contextmanager
def by_hand(name: str, case: Case, folder: Path, placement: Placement) -> Iterator[Server]:
    """One of BY_HAND."""
    command = [sys.executable, "-m", "service_bench.servers.by_hand", BY_HAND[name], str(folder)]
    with process([*command, *placement.arguments()], PYTHONPATH=str(BENCHMARKS)) as running:
        line = running.stdout.readline() if running.stdout else ""
        if not line:
            raise SystemExit(f"the server {name!r} did not start")
        told = json.loads(line)
        target = Target(name, told["address"], running.pid, case.name)
        yield Server(target, f"{told['variant']}, {placement}")


def mlserver_version() -> str | None:
    """Its version, None where it is not installed."""
    if not MLSERVER_PYTHON.exists():
        return None
    code = "from importlib.metadata import version; print(version('mlserver'))"
    found = subprocess.run([MLSERVER_PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


@contextmanager
def mlserver(case: Case, folder: Path, placement: Placement) -> Iterator[Server]:
    """MLServer with a runtime on ONNX Runtime."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1], other.getsockname()[1]]
    command = [str(MLSERVER_PYTHON), "-m", "service_bench.servers.mlserver_main", str(folder)]
    command += ["--grpc-port", str(ports[0]), "--http-port", str(ports[1]), *placement.arguments()]
    descriptor = folder / "descriptor.bin"
    descriptor.unlink(missing_ok=True)
    with process(command, PYTHONPATH=str(BENCHMARKS)) as running:
        deadline = time.monotonic() + START_SECONDS
        while not descriptor.exists():
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("MLServer did not start")
            time.sleep(POLL_SECONDS)
        target = Target(MLSERVER, f"127.0.0.1:{ports[0]}", running.pid, case.name)
        protocol = infer.Protocol(descriptor.read_bytes())
        asyncio.run(protocol.wait_ready(target.address))
        yield Server(target, f"LSTM operator, {placement}", protocol)
