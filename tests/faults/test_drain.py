"""SIGTERM under load: what is in flight is answered, nothing is lost, and the server is gone in time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape

DRAIN_SECONDS = 3.0


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_drain(
    seat: Callable[..., Seat], judge: Judge, length: Length, tmp_path: Path, durability: str
) -> None:
    async def run() -> None:
        served = seat(
            store=f"sqlite:{tmp_path}/sessions.db", durability=durability, drain_seconds=DRAIN_SECONDS
        )
        rng = random.Random(length.seed)
        load = Load([served.address], Shape(seed=length.seed), History())
        await served.start()
        longest = 0.0
        try:
            await load.start()
            for _ in range(length.some(0.4)):
                await asyncio.sleep(rng.uniform(0.1, 1.0))
                began = time.monotonic()
                # `stop` raises if the process is still there after its bound, STOP_SECONDS.
                assert await served.stop() == 0
                longest = max(longest, time.monotonic() - began)
                await served.start()
            await load.stop()
        finally:
            await load.abandon()
        assert await served.stop() == 0
        await judge(load, f"{durability}, SQLite, drained")
        print(f"the longest drain took {longest:.1f} s")

    asyncio.run(run())
