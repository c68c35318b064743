"""Work in a slot that is no session's: states made again, and jobs that nothing is kept of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keepgate.engine.job import Job
from keepgate.sessions.history import History

if TYPE_CHECKING:
    from keepgate.residents import Residents


async def replay(residents: Residents, history: History, position: int) -> bytes:
    """The state at a position of a history."""
    state, start, inputs = history.state_before(position)
    if inputs is None and state is not None:
        return state
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def begin(slot: int) -> None:
        if state is not None:
            residents.slots.write(slot, state)
        if inputs is None:
            finish(slot)
            return
        job = Job(inputs, start, slot=slot, quiet=True)
        job.when_done(lambda job: finish(slot) if job.error is None else fail(slot, job.error))
        residents.engine.submit(job)

    def finish(slot: int) -> None:
        if not done.done():
            done.set_result(residents.slots.read(slot))
        residents.release(slot)

    def fail(slot: int, error: Exception) -> None:
        if not done.done():
            done.set_exception(error)
        residents.release(slot)

    residents.with_slot(begin)
    return await done


def run_from(residents: Residents, state: bytes | None, jobs: list[Job]) -> None:
    """Do jobs one after the other from a state (None: zeros), on no session.

    What they say is settled as the engine is done with each.
    """

    def begin(slot: int) -> None:
        if state is not None:
            residents.slots.write(slot, state)
        jobs[-1].when_done(lambda _: residents.release(slot))
        for job in jobs:
            job.slot = slot
            residents.engine.submit(job)

    residents.with_slot(begin)
