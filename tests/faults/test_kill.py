"""kill -9 at random moments under load, and the same sessions go on.

A kill spares what the system has been given to write: that a commit also waits for the disk is for
tests of the store to show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape
from faults.rounds import EVERYSEC_SECONDS, survive


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
        await survive(served, load, length, length.some(0.3), longest=2.5)
        report = await judge(load, "everysec, SQLite", may_lose_seconds=EVERYSEC_SECONDS)
        assert report.reported > 0  # or the kills came at no moment that matters

    asyncio.run(run())
