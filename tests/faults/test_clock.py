"""Clocks that jump: the wall clock as the server's Python code reads it, while the server runs.

libfaketime would also move it for the libraries below, but makes waits fail and hang that have nothing to do
with the wall clock. What a jump of Redis's clock does to the leases of servers is done to them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape
from keepgate_protos.v1 import sequences_pb2 as pb
from support.redis_server import RedisServer
from support.wire import DEADLINE, connect

HOOK = """
import os, time
def jumping(true=time.time, path=os.environ["JUMPING_CLOCK"]):
    with open(path) as offset:
        return true() + float(offset.read())
time.time = jumping
"""
"""Python imports it at start, as sitecustomize."""
JUMPS = (-86_400, -3_600, -5, 0, 5, 3_600, 72_000)
"""Seconds that the wall clock is off. Redis forgets sessions that nobody used for more than a day."""


class Clock:
    """The wall clock of processes started while this is there."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(HOOK)
        self._path = directory / "offset"
        self.jump(0)
        monkeypatch.setenv("PYTHONPATH", str(directory))
        monkeypatch.setenv("JUMPING_CLOCK", str(self._path))

    def jump(self, seconds: int) -> None:
        """From now on the clock is off by so much."""
        scratch = self._path.with_suffix(".tmp")
        scratch.write_text(f"{seconds:+d}\n")
        scratch.replace(self._path)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(tmp_path / "clock", monkeypatch)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis whose clock is right."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


async def jump_about(
    clock: Clock, seats: list[Seat], load: Load, length: Length, also: Callable[[], None] = lambda: None
) -> None:
    """Put the load on servers; the clock jumps, and one of them is killed now and then.

    also: what happens with each jump.
    """
    rng = random.Random(length.seed)
    await asyncio.gather(*(s.start() for s in seats))
    try:
        await load.start()
        for turn in range(length.some(0.4)):
            await asyncio.sleep(rng.uniform(0.2, 0.8))
            clock.jump(rng.choice(JUMPS))
            also()
            await asyncio.sleep(rng.uniform(0.2, 0.8))
            if turn % 2:
                killed = rng.choice(seats)
                load.history.killed()
                killed.kill()
                clock.jump(rng.choice(JUMPS))
                await killed.start()
        await load.stop()
    finally:
        await load.abandon()
    for s in seats:
        assert await s.stop() == 0


def test_the_clock_is_the_servers(seat: Callable[..., Seat], clock: Clock) -> None:
    """Or the other tests would test nothing."""

    async def run() -> None:
        served = seat()
        await served.start()
        clock.jump(3_600)
        with connect(served.address) as wire:
            name = wire.open()
            reply = wire.sequences.Describe(pb.DescribeRequest(session_id=name), timeout=DEADLINE)
        assert reply.session.created.seconds > time.time() + 1_800

    asyncio.run(run())


def test_clock_jumps_with_sqlite(
    seat: Callable[..., Seat], judge: Judge, length: Length, clock: Clock, tmp_path: Path
) -> None:
    async def run() -> None:
        served = seat(store=f"sqlite:{tmp_path}/sessions.db", durability="always")
        load = Load([served.address], Shape(seed=length.seed), History())
        await jump_about(clock, [served], load, length)
        await judge(load, "always, SQLite, the clock jumps")

    asyncio.run(run())


def test_clock_jumps_with_redis(
    seat: Callable[..., Seat], judge: Judge, length: Length, redis: RedisServer, clock: Clock
) -> None:
    """Leases end at once, of servers that live: then sessions move to and fro, and nobody loses a step."""

    def end_leases() -> None:
        with redis.client() as client:
            for lease in client.scan_iter("keepgate:server:*"):
                client.delete(lease)

    async def run() -> None:
        seats = [seat(store=redis.url, durability="always", lease_seconds=3.0) for _ in range(2)]
        load = Load([s.address for s in seats], Shape(seed=length.seed, wander=0.1), History())
        await jump_about(clock, seats, load, length, end_leases)
        await judge(load, "always, Redis, the clock jumps")
        assert load.history.failures["SESSION_MOVED"] > 0

    asyncio.run(run())
