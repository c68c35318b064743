"""kill -9 at random moments under load, and the same sessions go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape

EVERYSEC_SECONDS = 2.0
"""A commit comes a second after the one before has ended; the rest is for a machine with much to do."""


async def kill_in_rounds(seat: Seat, load: Load, length: Length, rounds: int, longest: float) -> None:
    """Kill the server `rounds` times, `longest` seconds after it is ready at most, now and then while it
    starts."""
    rng = random.Random(length.seed)
    for _ in range(rounds):
        await asyncio.sleep(rng.uniform(0.02, longest))
        load.history.killed()
        seat.kill()
        if rng.random() < 0.15:
            seat.spawn()
            await asyncio.sleep(rng.uniform(0.1, 2.0))
            seat.kill()
        await seat.start()


async def survive(seat: Seat, load: Load, length: Length, rounds: int, longest: float = 0.8) -> None:
    await seat.start()
    try:
        await load.start()
        await kill_in_rounds(seat, load, length, rounds, longest)
        await load.stop()
    finally:
        await load.abandon()
    assert await seat.stop() == 0


def test_always_with_sqlite(seat: Callable[..., Seat], judge: Judge, length: Length, tmp_path: Path) -> None:
    async def run() -> None:
        served = seat(store=f"sqlite:{tmp_path}/sessions.db", durability="always")
        load = Load([served.address], Shape(seed=length.seed), History())
        await survive(served, load, length, length.rounds)
        report = await judge(load, "always, SQLite")
        assert report.reported == 0

    asyncio.run(run())


def test_everysec_with_sqlite(
    seat: Callable[..., Seat], judge: Judge, length: Length, tmp_path: Path
) -> None:
    async def run() -> None:
        served = seat(store=f"sqlite:{tmp_path}/sessions.db", durability="everysec")
        load = Load([served.address], Shape(seed=length.seed), History())
        rounds = length.some(0.3)
        await survive(served, load, length, rounds, longest=2.5)
        report = await judge(load, "everysec, SQLite", may_lose_seconds=EVERYSEC_SECONDS)
        assert report.reported > 0  # or the kills came at no moment that matters

    asyncio.run(run())
