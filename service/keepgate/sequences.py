"""What the server does with sequences, in the terms of the domain: no gRPC, no protobuf.

Joins the directory of sessions with one engine per loaded model. Every protocol calls this. Used from one
event loop. Inputs are checked where they are converted: what comes here is valid for its model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from keepgate.config import Settings
from keepgate.directory import Directory, Outcome
from keepgate.engine.compute import ComputeThread
from keepgate.engine.engine import Engine
from keepgate.engine.job import Job, Scores
from keepgate.errors import (
    DrainingError,
    KeepgateError,
    PositionMismatchError,
    QueueTimeoutError,
    RequestError,
    SessionInUseError,
    SessionLostError,
    SessionMovedError,
    StepsLostError,
)
from keepgate.generation import Generation, GenerationOptions
from keepgate.keeper import Keeper
from keepgate.models.registry import LoadedModel, Registry
from keepgate.pending import Pending
from keepgate.recall import Recall
from keepgate.replay import run_from
from keepgate.request import NO_OPTIONS, Kind, Options, digest
from keepgate.residents import Residents
from keepgate.sessions.durability import Durability
from keepgate.sessions.session import Entry, ModelKey, Session
from keepgate.sessions.stores.base import Refusal

Kept = TypeVar("Kept", Job, Generation)


class Sequences(Directory):
    """The sessions of all loaded models, and the work on them."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        keeper: Keeper,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(registry, settings, keeper, clock)
        self.compute = ComputeThread()
        self.pending = Pending(settings.max_pending_steps)
        self.callers = 0  # calls in progress that step, one by one
        self._recall = Recall(self)
        for model in registry:
            self.serve(model)

    def serve(self, model: LoadedModel) -> None:
        """Take sessions of one more model version."""
        engine = Engine(model.network, self.compute, self._on_done, max_lanes=self.settings.max_batch)
        self._residents[model.key] = Residents(model, engine, self.settings, self._not_brought)

    def unserve_unused(self) -> list[ModelKey]:
        """Let go of the retired model versions that nothing uses any more; which."""
        unused = [
            model.key
            for model in self.registry
            if self.registry.is_retired(model.key)
            and not self.table.count(model.key)
            and self.residents(model.key).is_unused
        ]
        for key in unused:
            self.registry.remove(key)
            del self._residents[key]
        return unused

    # --- work ---

    def step(
        self,
        session: Session[Outcome],
        position: int | None,
        inputs: NDArray[Any],
        options: Options = NO_OPTIONS,
        *,
        owner: object | None = None,
        deadline: float = 0.0,
    ) -> tuple[Job, bool]:
        """Apply inputs. Returns the job and whether it was admitted before.

        owner: the stream that the step came by; the session becomes that stream's. deadline: the job's.
        Raises the errors of `SessionTable.admit` and `claim`, StepsExhaustedError and StoreUnavailableError.
        """
        if owner is None or session.owner is owner:
            return self._request(session, Kind.STEP, position, inputs, options, owner, deadline)
        self.table.check_owner(session, owner)
        job, replayed = self._request(session, Kind.STEP, position, inputs, options, owner, deadline)
        if session.ended is None:  # it may have ended by this very step
            self.table.claim(session, owner)
        return job, replayed

    def score(
        self, session: Session[Outcome], position: int | None, tokens: NDArray[np.uint32]
    ) -> tuple[Job, bool]:
        """Apply tokens and score them. Returns and raises as `step` does."""
        return self._request(session, Kind.SCORE, position, tokens, NO_OPTIONS)

    async def score_alone(self, model: LoadedModel, tokens: NDArray[np.uint32]) -> Scores:
        """Score tokens from a zero state and keep nothing. Raises StepsExhaustedError."""
        job = Job(tokens, 0, kind=Kind.SCORE)
        with self.pending.reserved(len(tokens)):
            run_from(self.residents(model.key), None, [job])
            reply = await job.wait()
        if not isinstance(reply, Scores):
            raise TypeError(f"a scoring job replied with {type(reply).__name__}")
        return reply

    async def generate(
        self,
        session: Session[Outcome],
        position: int | None,
        prompt: NDArray[np.uint32],
        options: GenerationOptions,
    ) -> Generation:
        """Apply a prompt and begin to generate, or find the generation that this request began.

        Raises as `step` does.
        """
        asked = Options(options.sampling, more=options.key())
        hashed = digest(Kind.GENERATE, prompt, asked)
        try:
            entry, fresh = self._admit(session, position, len(prompt), hashed)
        except (PositionMismatchError, StepsLostError):
            if position is None or position > session.tail:
                if self._may_have_moved(session):
                    await self.keeper.stored(session.keeping)
                raise
            return await self._recall.generation(session, position, hashed, options)
        if not fresh:
            return _outcome(entry, Generation)
        generation = self.generation_of(entry, len(prompt), options)
        entry.outcome = generation
        job = Job(prompt, entry.start, kind=Kind.GENERATE, options=asked, tag=entry)
        generation.expect(job)
        self._submit(session, job)
        return generation

    def generation_of(self, entry: Entry[Outcome], prompt: int, options: GenerationOptions) -> Generation:
        """A generation that nothing was drawn of, and that feeds its tokens to the entry's session."""
        return Generation(entry.start + prompt, options, lambda token: self._feed(entry, options, token))

    # --- the end ---

    async def flush(self) -> None:
        """Return once the store knows all that was done."""
        await self.keeper.flush()

    async def stop(self) -> None:
        """Wait for the batch that is being computed, and compute no more. What is not flushed is lost."""
        self.compute.close()
        for residents in self._residents.values():
            await residents.close()
        await self.keeper.close()

    # --- inside ---

    def _request(
        self,
        session: Session[Outcome],
        kind: Kind,
        position: int | None,
        inputs: NDArray[Any],
        options: Options,
        owner: object | None = None,
        deadline: float = 0.0,
    ) -> tuple[Job, bool]:
        hashed = digest(kind, inputs, options)
        try:
            entry, fresh = self._admit(session, position, len(inputs), hashed, owner)
        except (PositionMismatchError, StepsLostError) as error:
            if position is None or (position > session.tail and not self._may_have_moved(session)):
                raise
            job = Job(inputs, position, kind=kind, options=options)
            if position > session.tail:
                self._recall.refusal(session, job, error)
            else:
                self._recall.job(session, job, hashed)
            return job, True
        if not fresh:
            return _outcome(entry, Job), True
        job = Job(
            inputs,
            entry.start,
            kind=kind,
            options=options,
            tag=entry,
            deadline=deadline,
            alone=self.callers == 1,
        )
        entry.outcome = job
        self._submit(session, job)
        return job, False

    def _admit(
        self,
        session: Session[Outcome],
        position: int | None,
        count: int,
        hashed: bytes,
        owner: object | None = None,
    ) -> tuple[Entry[Outcome], bool]:
        if session.bound is not None and session.bound is not owner:
            raise SessionInUseError(session.session_id)
        if position is None or position == session.tail:  # a retry needs no room
            self.pending.check(count)
            durability = session.keeping.meta.durability
            if durability is not Durability.NONE:
                self.keeper.check_usable(durability)
                if self.draining.is_set():
                    raise DrainingError  # it goes on at the next server, which must not wait for it to pause
        return self.table.admit(session, position, count, hashed, self._clock())

    def _may_have_moved(self, session: Session[Outcome]) -> bool:
        """Whether another server may have taken the session on, so that a refusal must not rest on memory.

        Raises StoreUnavailableError.
        """
        durability = session.keeping.durability
        self.keeper.check_usable(durability)
        return durability is not Durability.NONE and self.keeper.is_shared

    def _feed(self, entry: Entry[Outcome], options: GenerationOptions, token: int) -> Job:
        """Let a generation go on: one more input. Raises as `SessionTable.extend`, and SessionInUseError."""
        if entry.session.bound is not None:
            raise SessionInUseError(entry.session.session_id)
        start = entry.start + entry.count
        self.table.extend(entry, 1, self._clock())
        asked = Options(options.sampling, more=options.key())
        job = Job(np.array((token,), np.uint32), start, kind=Kind.FEED, options=asked, tag=entry)
        self._submit(entry.session, job)
        return job

    def _submit(self, session: Session[Outcome], job: Job) -> None:
        self.pending.add(len(job.inputs))
        self.residents(session.model).submit(session, job)

    def _on_done(self, jobs: list[Job]) -> list[Job]:
        """One tick's finished jobs, before anyone is answered. Returns those whose answer need not wait."""
        settled: list[Job] = []
        for job in jobs:
            entry: Entry[Outcome] | None = job.tag
            if entry is None:  # no session's: a replay, or scored alone
                settled.append(job)
                continue
            job.tag = None  # the entry refers to the job: no cycle for each step
            self.pending.drop(len(job.inputs))
            session = entry.session
            if isinstance(job.error, QueueTimeoutError):
                self.table.retract(session)  # it was never begun, nor was what came behind it
                settled.append(job)
            elif job.error is not None:
                self.table.lose(session)
                settled.append(job)
            elif self._applied(session, entry, job):
                settled.append(job)
            if session.ended is not None:
                self.settle_end(session)
        for residents in self._residents.values():
            residents.serve_queue()
        return settled

    def _applied(self, session: Session[Outcome], entry: Entry[Outcome], job: Job) -> bool:
        """A job changed a session. Whether its answer may go out now."""
        self.table.complete(entry, len(job.inputs))
        keeping = session.keeping
        if keeping.history is not None:
            keeping.history.append(job.kind, job.inputs, job.options)
            if job.state is not None:
                keeping.history.keep_state(job.state)
        self.residents(session.model).used(session)
        durability = keeping.meta.durability
        if durability is Durability.NONE:
            return True
        if durability is Durability.EVERYSEC:
            keeping.write()
            return True
        keeping.write(lambda refusal: _acknowledge(session, job, refusal), at_once=True)
        return False

    def lose(self, session: Session[Outcome]) -> None:
        """The state of an open session is undefined: it ends."""
        self.table.lose(session)
        self.settle_end(session)

    def _not_brought(self, session: Session[Outcome], jobs: list[Job], error: KeepgateError) -> None:
        """A session's state could not be made: none of its jobs will be done."""
        if isinstance(error, SessionLostError):
            self.table.lose(session)
        else:
            self.table.retract(session)
        for job in jobs:
            self.pending.drop(len(job.inputs))
            job.error = error if isinstance(error, RequestError) else SessionLostError(session.session_id)
            job.settle()
        self.settle_end(session)


def _acknowledge(session: Session[Outcome], job: Job, refusal: Refusal | None) -> None:
    if refusal is not None:
        job.reply, job.error = None, SessionMovedError(session.session_id)
    job.settle()


def _outcome(entry: Entry[Outcome], kind: type[Kept]) -> Kept:
    """The outcome of a request that came again. The digest covers the kind of request."""
    if not isinstance(entry.outcome, kind):
        raise TypeError(f"expected an entry of a {kind.__name__}, got {entry.outcome!r}")
    return entry.outcome
