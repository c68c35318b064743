"""Kill, start, go on: what the tests of several stores have in common."""

from __future__ import annotations

import asyncio
import random

from faults.conftest import Length
from faults.fleet import Seat
from faults.load import Load

EVERYSEC_SECONDS = 2.0
"""A commit comes a second after the one before has ended; the rest is for a machine with much to do."""
WHILE_STARTING = 0.15
"""Share of the kills that are followed by one of a server that is not ready yet."""


async def survive(seat: Seat, load: Load, length: Length, rounds: int, *, longest: float = 0.8) -> None:
    """Start, put the load on, kill the server `rounds` times, `longest` seconds after it is ready at most."""
    rng = random.Random(length.seed)
    await seat.start()
    try:
        await load.start()
        for _ in range(rounds):
            await asyncio.sleep(rng.uniform(0.02, longest))
            load.history.killed()
            seat.kill()
            if rng.random() < WHILE_STARTING:
                seat.spawn()
                await asyncio.sleep(rng.uniform(0.1, 2.0))
                load.history.back()  # it may have been, for a moment, and have answered
                load.history.killed()
                seat.kill()
            await seat.start()
            load.history.back()
        await load.stop()
    finally:
        await load.abandon()
    assert await seat.stop() == 0
