"""Answers given before, computed again: what a session retains makes the same state, and so the same answer.

A retry of the request applied last finds its answer in the session table. All others that the session's
history reaches back to, and those of a session that was paged out or recovered, come from here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from keepgate.engine.job import Job
from keepgate.errors import ComputationError, PositionMismatchError, RequestError, StepMismatchError
from keepgate.generation import Generation, GenerationOptions
from keepgate.replay import run_from
from keepgate.sessions.durability import Durability
from keepgate.sessions.history import History
from keepgate.sessions.records import Record
from keepgate.sessions.session import Entry, Session

if TYPE_CHECKING:
    from keepgate.directory import Outcome
    from keepgate.residents import Residents
    from keepgate.sequences import Sequences

log = structlog.get_logger(__name__)


class Recall:
    """Of the sessions of `sequences`. Digests are those of the requests that came again."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self._tasks: set[asyncio.Task[None]] = set()

    def job(self, session: Session[Outcome], job: Job, digest: bytes) -> None:
        """Have a step or a score that came again answered: `job` gets settled.

        With PositionMismatchError or StepMismatchError, if the session was not asked for that before. Raises
        StepsExhaustedError.
        """
        pending, count = self._sequences.pending, len(job.inputs)
        pending.check(count)
        residents = self._sequences.residents(session.model)
        task = asyncio.ensure_future(self._job(session, residents, job, digest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        pending.add(count)
        job.when_done(lambda _: pending.drop(count))

    def refusal(self, session: Session[Outcome], job: Job, error: RequestError) -> None:
        """Refuse a request of a position that the session has not reached: `job` gets settled with `error`.

        With SessionMovedError, if it is another server that has the session now, and it is further there.
        """
        task = asyncio.ensure_future(self._refusal(session, job, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def generation(
        self, session: Session[Outcome], position: int, digest: bytes, options: GenerationOptions
    ) -> Generation:
        """The generation that this request began, as far as it got; it can go on if nothing came after it.

        Raises PositionMismatchError, StepMismatchError, StoreUnavailableError, SessionGoneError,
        StepsExhaustedError.
        """
        residents = self._sequences.residents(session.model)
        history, records = await self._find(session, residents, position, digest)
        prompt, end = records[0], records[-1].end
        entry: Entry[Outcome] = Entry(session, position, end - position, digest)
        entry.unapplied = 0
        generation = self._sequences.generation_of(entry, len(prompt.inputs), options)
        jobs = [
            Job(record.inputs, record.start, kind=record.kind, options=record.options) for record in records
        ]
        for job in jobs:
            generation.expect(job)
        with self._sequences.pending.reserved(end - position):
            _run(residents, history, position, jobs)
            await jobs[-1].wait()
        if [record.inputs[0] for record in records[1:]] != generation.tokens[: len(records) - 1].tolist():
            log.warning("a generation was repeated with other tokens", session=session.session_id)
        self._sequences.table.attach(entry, generation)
        return generation

    async def _job(self, session: Session[Outcome], residents: Residents, job: Job, digest: bytes) -> None:
        try:
            history, _ = await self._find(session, residents, job.start, digest)
        except RequestError as error:
            job.error = error
            job.settle()
            return
        except Exception as error:  # a bug; whoever waits must hear of it
            log.error("an answer could not be found again", session=session.session_id, exc_info=error)
            job.error = ComputationError()
            job.settle()
            return
        _run(residents, history, job.start, [job])

    async def _refusal(self, session: Session[Outcome], job: Job, error: RequestError) -> None:
        try:
            await self._sequences.keeper.stored(session.keeping)
        except RequestError as moved:
            error = moved
        job.error = error
        job.settle()

    async def _find(
        self, session: Session[Outcome], residents: Residents, position: int, digest: bytes
    ) -> tuple[History, list[Record]]:
        """The session's history, and what it has of the request.

        residents: those of the session's model, which may be unloaded if the session ends meanwhile.
        """
        keeping = session.keeping
        if keeping.durability is Durability.ALWAYS and keeping.journal.is_unwritten(keeping):
            await self._sequences.keeper.stored(keeping)  # nothing is acknowledged before it is durable
        history = await residents.recall(session)
        records = history.find(position)
        if not records:
            raise PositionMismatchError(session.session_id, position, session.tail)
        if records[0].digest != digest:
            raise StepMismatchError(session.session_id, position, session.tail)
        return history, records


def _run(residents: Residents, history: History, position: int, jobs: list[Job]) -> None:
    state, start, inputs = history.state_before(position)
    replay = [] if inputs is None else [Job(inputs, start, quiet=True)]
    run_from(residents, state, replay + jobs)
