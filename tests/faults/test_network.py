"""Connections that break in the middle of answers, or are slow, under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape
from support.proxy import Proxy

ANSWERS = 150
"""For each round."""


async def until_answered(load: Load, count: int) -> None:
    """Return when so many requests were answered."""
    async with asyncio.timeout(120):
        while load.answers < count:
            await asyncio.sleep(0.05)


def test_connections_cut(seat: Callable[..., Seat], judge: Judge, length: Length, tmp_path: Path) -> None:
    async def run() -> None:
        served = seat(store=f"sqlite:{tmp_path}/sessions.db", durability="always")
        await served.start()
        rng = random.Random(length.seed)
        with Proxy(served.address) as proxy:
            proxy.budget = lambda: rng.randint(2_000, 40_000)
            load = Load([proxy.address], Shape(seed=length.seed, timeout=3.0), History())
            try:
                await load.start()
                for turn in range(1, length.some(0.5) + 1):
                    await until_answered(load, turn * ANSWERS)
                    await asyncio.to_thread((proxy.reset, proxy.cut, proxy.swallow_answers)[turn % 3])
                    proxy.delay = rng.choice((0.0, 0.0, 0.05))
                    if turn % 3 == 2:  # nothing arrives any more, till the connection breaks
                        await asyncio.sleep(0.5)
                        await asyncio.to_thread(proxy.reset)
                proxy.budget = lambda: None
                proxy.delay = 0.0
                await load.stop()
            finally:
                await load.abandon()
            assert proxy.connections > length.some(0.5)
        assert await served.stop() == 0
        report = await judge(load, "connections cut")
        assert report.replays > 0

    asyncio.run(run())
