"""Clocks that jump: the wall clock of servers, by libfaketime, while they run.

At a jump the library makes some of the server's waits too long; its clients ask again after CALL_SECONDS.
Redis cannot be run with libfaketime (its allocator and the library call each other). What a jump of its clock
does to the leases of servers is done to them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape
from support.redis_server import RedisServer

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
CALL_SECONDS = 3.0
JUMPS = (-86_400, -3_600, -5, 0, 5, 3_600, 72_000)
"""Seconds that the wall clock is off. Redis forgets sessions that nobody used for more than a day."""


class Clock:
    """The wall clock of processes started while this is there."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not LIBRARIES:
            raise RuntimeError("these tests need libfaketime: apt-get install libfaketime")
        self._path = path
        self.jump(0)
        monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(path))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        # As the kernel has it: only the wall clock can be set.
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        monkeypatch.setenv("DONT_FAKE_MONOTONIC", "1")

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


def test_clock_jumps_with_sqlite(
    seat: Callable[..., Seat], judge: Judge, length: Length, clock: Clock, tmp_path: Path
) -> None:
    async def run() -> None:
        served = seat(store=f"sqlite:{tmp_path}/sessions.db", durability="always")
        load = Load([served.address], Shape(seed=length.seed, timeout=CALL_SECONDS), History())
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
        load = Load(
            [s.address for s in seats], Shape(seed=length.seed, timeout=CALL_SECONDS, wander=0.1), History()
        )
        await jump_about(clock, seats, load, length, end_leases)
        await judge(load, "always, Redis, the clock jumps")
        assert load.history.failures["SESSION_MOVED"] > 0

    asyncio.run(run())
