"""A disk that is full: nothing is acknowledged that is not on it, and all goes on once there is room."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape

FULL_BYTES = 65_536
"""As large as any file may get while the disk is full; the server's own log is smaller."""
UNAVAILABLE = "STORE_UNAVAILABLE"


def fill_disk(seat: Seat) -> None:
    """From now on the server's writes fail beyond FULL_BYTES of a file."""
    resource.prlimit(seat.server.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))


def empty_disk(seat: Seat) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(seat.server.pid, resource.RLIMIT_FSIZE, unlimited)


def test_disk_full(seat: Callable[..., Seat], judge: Judge, length: Length, tmp_path: Path) -> None:
    async def run() -> None:
        served = seat(store=f"sqlite:{tmp_path}/sessions.db", durability="always")
        load = Load([served.address], Shape(seed=length.seed), History())
        await served.start()
        try:
            await load.start()
            for turn in range(length.some(0.3)):
                refused = load.history.failures[UNAVAILABLE]
                await asyncio.sleep(0.5)
                fill_disk(served)
                async with asyncio.timeout(30):
                    while load.history.failures[UNAVAILABLE] == refused:
                        await asyncio.sleep(0.05)
                answers = load.answers
                await asyncio.sleep(1.0)
                assert load.answers - answers <= 2 * load.shape.sessions  # kept answers are still given
                assert "store fails" in served.server.log()
                if turn % 2:
                    load.history.killed()
                    served.kill()
                    await served.start()
                else:
                    empty_disk(served)
            await load.stop()
        finally:
            await load.abandon()
        assert await served.stop() == 0
        await judge(load, "always, SQLite, disk full")

    asyncio.run(run())
