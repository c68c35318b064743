"""Many more sessions than slots, and very many that come and go: all answer, none is lost, nothing grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from keepgate.config import BUNDLED_MODELS
from keepgate.models.format import load_model
from keepgate_kernels import Lanes, Network, Sampling
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc
from support.servers import ServerProcess

Start = Callable[..., ServerProcess]

MODEL = "shakespeare-lstm"
AT_ONCE = 64
"""Calls in flight."""
DEADLINE = 120.0
DISTINCT = 50
"""Different inputs; session number n gets those of n % DISTINCT."""
GROWTH = 1.05


def resident_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def spread(work: Iterable[Any], run: Callable[[Any], Any]) -> None:
    """`run` each piece of work, AT_ONCE at a time."""
    pieces = iter(work)

    async def worker() -> None:
        for piece in pieces:
            await run(piece)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def stub_of(channel: grpc.aio.Channel) -> Any:
    make: Any = sequences_pb2_grpc.SequencesStub  # generated without types
    return make(channel)


def tokens_of(session: int, turn: int) -> list[int]:
    return [(7 * (session % DISTINCT) + 3 * turn + index) % 60 for index in range(3)]


def expected_tokens(turns: int) -> list[list[int]]:
    """What an uninterrupted run predicts after each turn, for each of the DISTINCT sessions."""
    file = load_model(BUNDLED_MODELS / MODEL / "1" / "model.safetensors", max_bytes=1 << 29)
    network = Network(file.spec, file.tensors, slots=1)
    lanes = Lanes(file.spec, max_lanes=1, max_inputs=3)
    predicted = []
    for session in range(DISTINCT):
        slot = network.slots.allocate()
        assert slot is not None
        row = []
        for turn in range(turns):
            inputs = np.array(tokens_of(session, turn), np.uint32)
            lanes.add(slot, inputs, position=3 * turn + 3, sampling=Sampling())
            network.step(lanes)
            row.append(lanes.token(0))
            lanes.clear()
        network.slots.release(slot)
        predicted.append(row)
    return predicted


@pytest.mark.parametrize("durability", ["none", "everysec"])
def test_many_more_sessions_than_slots(
    start_server: Start,
    tmp_path: Path,
    live_sessions: int,
    durability: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    turns = 3
    expected = expected_tokens(turns)
    store = (
        {} if durability == "none" else {"store": f"sqlite:{tmp_path}/sessions.db", "durability": durability}
    )
    server = start_server(models=BUNDLED_MODELS, slots=live_sessions // 10, **store)
    latencies: list[float] = []

    async def main() -> int:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = stub_of(channel)

            async def open_one(session: int) -> None:
                await stub.Open(pb.OpenRequest(model=MODEL, session_id=f"s{session}"), timeout=DEADLINE)

            await spread(range(live_sessions), open_one)
            for turn in range(turns):

                async def step_one(session: int, turn: int = turn) -> None:
                    inputs = pb.Inputs(tokens=pb.Tokens(ids=tokens_of(session, turn)))
                    request = pb.StepRequest(session_id=f"s{session}", position=3 * turn, inputs=inputs)
                    begin = time.perf_counter()
                    reply = await stub.Step(request, timeout=DEADLINE)
                    latencies.append(time.perf_counter() - begin)
                    assert reply.position == 3 * turn + 3
                    assert reply.prediction.token == expected[session % DISTINCT][turn], (session, turn)

                await spread(range(live_sessions), step_one)
            # One at a time, for what a page-in alone takes: the first sessions are long paged out.
            alone: list[float] = []
            for session in range(200):
                request = pb.StepRequest(
                    session_id=f"s{session}", position=3 * turns, inputs=pb.Inputs(tokens=pb.Tokens(ids=[1]))
                )
                for replay in range(2):
                    begin = time.perf_counter()
                    reply = await stub.Step(request, timeout=DEADLINE)
                    if not replay:
                        alone.append(time.perf_counter() - begin)
                    request.position = reply.position
            listed = await stub.List(pb.ListRequest(page_size=1))
            micros = 1e6 * np.percentile(alone, [50, 99])
            with capsys.disabled():
                print(
                    f"\n{live_sessions:,} sessions on {live_sessions // 10:,} slots, {durability}: "
                    f"step with page-in {micros[0]:,.0f} us (median), {micros[1]:,.0f} us (99 %) alone; "
                    f"under load {1e6 * np.median(latencies[live_sessions:]):,.0f} us; "
                    f"resident {resident_bytes(server) / 2**20:,.0f} MiB"
                )
            return int(listed.total)

    assert asyncio.run(main()) == live_sessions
    assert server.stop() == 0
    assert '"level": "error"' not in server.log()


def test_sessions_that_come_and_go_leave_nothing(
    start_server: Start, passing_sessions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    # A fifth is never closed, and expires.
    server = start_server(slots=1_000, max_sessions=200_000, idle_ttl_seconds=5)
    first = passing_sessions // 10

    async def main() -> tuple[int, int]:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = stub_of(channel)

            async def one(session: int) -> None:
                name = f"s{session}"
                await stub.Open(pb.OpenRequest(model="letters", session_id=name), timeout=DEADLINE)
                inputs = pb.Inputs(tokens=pb.Tokens(ids=[session % 20]))
                await stub.Step(pb.StepRequest(session_id=name, position=0, inputs=inputs), timeout=DEADLINE)
                if session % 5:
                    await stub.Close(pb.CloseRequest(session_id=name), timeout=DEADLINE)

            await spread(range(first), one)
            before = resident_bytes(server)
            await spread(range(first, passing_sessions), one)
            return before, resident_bytes(server)

    before, after = asyncio.run(main())
    with capsys.disabled():
        print(
            f"\n{passing_sessions:,} sessions: resident {before / 2**20:,.1f} MiB after the first {first:,}, "
            f"{after / 2**20:,.1f} MiB at the end"
        )
    assert after < before * GROWTH + (0 if passing_sessions >= 1_000_000 else 2**25)
