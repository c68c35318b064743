"""Closed-loop load over gRPC: N sessions, each sending its next step when the last is answered.

One load generator drives every server. Latencies are taken in this process, from just before a request is
written to just after its answer is read.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc

WARM_UP = 0.2
"""Share of each measurement's time that is not counted."""
TOKENS = 16
"""Every session sends the token ids 0 to 15 in turn: all models have them."""


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
    """A server to measure; `model` is what its sessions open, None for a server without sessions."""

    name: str
    address: str
    pid: int
    model: str | None


def processor_seconds(pid: int) -> float:
    """User and system time that a process has spent (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Clock:
    """Counts what is answered in `seconds`, but for their beginning; in more, if nothing is till then."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.perf_counter() + seconds * WARM_UP
        self._end = time.perf_counter() + seconds
        self._latencies: list[float] = []
        self._steps = 0

    def note(self, sent: float, steps: int = 1) -> bool:
        """Count an answer of so many steps to what was sent then; whether to go on."""
        now = time.perf_counter()
        if self._begin <= now and (now < self._end or not self._latencies):
            self._end = max(self._end, now)
            self._latencies.append(now - sent)
            self._steps += steps
        return now < self._end

    def sample(self, server: str, call: str, sessions: int, server_seconds: float) -> Sample:
        """server_seconds: processor time of the server over the whole stretch."""
        p50, p99 = np.percentile(np.array(self._latencies) * 1e6, [50, 99])
        return Sample(
            server=server,
            call=call,
            sessions=sessions,
            steps_per_second=self._steps / (self._end - self._begin),
            p50_us=float(p50),
            p99_us=float(p99),
            # Processor time is taken over the whole load, latencies over all but the warm-up.
            server_us=server_seconds / (self._steps / (1 - WARM_UP)) * 1e6,
        )


def step_request(session_id: str, position: int) -> pb.StepRequest:
    """The step that every session takes at this position."""
    inputs = pb.Inputs(tokens=pb.Tokens(ids=[position % TOKENS]))
    return pb.StepRequest(session_id=session_id, position=position, inputs=inputs)


async def step_load(stub: Any, session_ids: list[str], clock: Clock) -> None:
    """One unary Step at a time for each session."""

    async def one(session_id: str) -> None:
        position = 0
        while True:
            sent = time.perf_counter()
            answer = await stub.Step(step_request(session_id, position))
            position = answer.position
            if not clock.note(sent):
                return

    await asyncio.gather(*(one(session_id) for session_id in session_ids))


async def stream_load(stub: Any, session_ids: list[str], clock: Clock) -> None:
    """All sessions over one Stream, one step a message."""
    call = stub.Stream()
    sent = [0.0] * len(session_ids)

    async def send(index: int, position: int) -> None:
        sent[index] = time.perf_counter()
        step = step_request(session_ids[index], position)
        await call.write(pb.StreamRequest(request_id=index, step=step))

    for index in range(len(sent)):
        await send(index, 0)
    running = len(sent)
    async for answer in call:
        if answer.WhichOneof("result") != "step":
            raise RuntimeError(f"a step failed: {answer.error.message}")
        if clock.note(sent[answer.request_id]):
            await send(answer.request_id, answer.step.position)
        else:
            running -= 1
            if not running:
                await call.done_writing()


async def frames_load(stub: Any, session_ids: list[str], clock: Clock) -> None:
    """All sessions as the rows of two frames, which are under way by turns; of one, for one session."""
    call = stub.StreamFrames()
    await call.write(pb.FramesRequest(bind=pb.Bind(session_ids=session_ids)))
    bound = (await call.read()).bound
    handles = np.array_split(np.frombuffer(bound.handles, "<u8"), min(2, len(session_ids)))
    sent = [0.0] * len(handles)
    positions = [0] * len(handles)

    async def send(half: int) -> None:
        sent[half] = time.perf_counter()
        rows = len(handles[half])
        frame = pb.Frame(
            handles=handles[half].tobytes(),
            positions=np.full(rows, positions[half], "<u8").tobytes(),
            tokens=np.full(rows, positions[half] % TOKENS, "<u4").tobytes(),
        )
        await call.write(pb.FramesRequest(request_id=half, frame=frame))

    for half in range(len(handles)):
        await send(half)
    running = len(handles)
    while running:
        answer = await call.read()
        if answer.WhichOneof("result") != "frame" or answer.frame.errors:
            raise RuntimeError(f"a frame failed: {answer}")
        half = answer.request_id
        positions[half] += 1
        if clock.note(sent[half], len(handles[half])):
            await send(half)
        else:
            running -= 1
    await call.done_writing()
    await call.read()


LOADS: dict[str, Callable[[Any, list[str], Clock], Awaitable[None]]] = {
    "Step": step_load,
    "Stream": stream_load,
    "StreamFrames": frames_load,
}
"""By the call that carries the steps."""


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
        clock = Clock(seconds)
        await LOADS[call](stub, session_ids, clock)
        spent = processor_seconds(target.pid) - spent
        if target.model:
            closes = [pb.CloseRequest(session_id=session_id) for session_id in session_ids]
            await asyncio.gather(*(stub.Close(request) for request in closes))
        return clock.sample(target.name, call, sessions, spent)
