"""What the server does with sequences, in the terms of the domain: no gRPC, no protobuf.

Joins the registry, the session table, what keeps sessions, and one engine per loaded model. Every protocol calls
this. Used from one event loop. Inputs are checked where they are converted: what comes here is valid for its
model.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from keepgate.config import Settings
from keepgate.engine.engine import ComputeThread, Engine
from keepgate.engine.job import Job, Scores
from keepgate.errors import (
    DrainingError,
    InvalidArgumentError,
    KeepgateError,
    PositionMismatchError,
    RequestError,
    SessionBusyError,
    SessionExistsError,
    SessionGoneError,
    SessionLostError,
    SessionModelError,
    SessionMovedError,
    SessionsExhaustedError,
    StepsExhaustedError,
)
from keepgate.generation import Generation, GenerationOptions
from keepgate.keeper import ENDED, Keeper
from keepgate.models.registry import LoadedModel, Registry
from keepgate.recall import Recall
from keepgate.request import NO_OPTIONS, Kind, Options, digest
from keepgate.residents import Residents
from keepgate.sessions.history import History
from keepgate.sessions.keeping import Durability
from keepgate.sessions.stores.base import Held, Refusal
from keepgate.sessions.table import Entry, ModelKey, Session, SessionTable

Outcome = Job | Generation
Kept = TypeVar("Kept", Job, Generation)

SESSION_ID_PATTERN = re.compile(r"[A-Za-z0-9._~-]{1,128}")
SESSION_ID_BYTES = 16

log = structlog.get_logger(__name__)


class Sequences:
    """The sessions of all loaded models."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        keeper: Keeper,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.keeper = keeper
        self.table: SessionTable[Outcome] = SessionTable()
        self.draining = asyncio.Event()
        self._clock = clock
        self._compute = ComputeThread()
        self._residents: dict[ModelKey, Residents] = {}
        self._claims: dict[str, asyncio.Future[None]] = {}
        self._pending = 0  # inputs admitted and not yet applied
        self._recall = Recall(self)
        for model in registry:
            self.serve(model)

    def serve(self, model: LoadedModel) -> None:
        """Take sessions of one more model version."""
        engine = Engine(model.network, self._compute, self._on_done, max_lanes=self.settings.max_batch)
        self._residents[model.key] = Residents(model, engine, self.settings, self._not_brought)

    async def recover(self) -> None:
        """At start: know the sessions that this server has in its store. Raises StoreError."""
        known = 0
        for held in await self.keeper.held():
            try:
                self._adopt(held)
                known += 1
            except (SessionModelError, SessionGoneError) as error:
                if not held.ended:
                    log.warning("a stored session cannot go on", error=str(error))
        if known:
            log.info("sessions recovered", sessions=known)

    # --- sessions ---

    async def open(
        self,
        model: LoadedModel,
        session_id: str = "",
        *,
        ttl: float | None = None,
        durability: Durability | None = None,
        state: bytes | None = None,
    ) -> Session[Outcome]:
        """A new session at position 0. session_id "", ttl None and durability None leave the choice to the server.

        state: as `Slots.read` returns it; None for zeros. Raises InvalidArgumentError, SessionExistsError,
        SessionsExhaustedError, DrainingError, StoreUnavailableError.
        """
        return await self.begin(
            model, session_id, self.residents(model.key).history(0, state), ttl=ttl, durability=durability
        )

    async def begin(
        self,
        model: LoadedModel,
        session_id: str,
        history: History,
        *,
        ttl: float | None,
        durability: Durability | None,
        twin_of: Session[Outcome] | None = None,
    ) -> Session[Outcome]:
        """A new session with a history, or a copy of the one that has it. Arguments and errors as for `open`."""
        if self.draining.is_set():
            raise DrainingError
        session_id = session_id or secrets.token_hex(SESSION_ID_BYTES)
        if not SESSION_ID_PATTERN.fullmatch(session_id):
            raise InvalidArgumentError(
                "session_id", f"{session_id[:129]!r}", "1 to 128 characters of [A-Za-z0-9._~-]"
            )
        ttl = self._checked_ttl(ttl)
        durability = self.settings.durability if durability is None else durability
        self.keeper.check_usable(durability)
        self.expire()
        self.table.check_absent(session_id)
        limit = self.settings.max_sessions
        if self.table.count(model.key) >= limit:
            raise SessionsExhaustedError(model.key.name, model.key.version, limit)
        keeping = self.keeper.create(session_id, model, ttl, durability, history)
        session = self.table.open(
            session_id, model.key, keeping, self._clock(), ttl=ttl, position=history.position
        )
        self._bind(session)
        if twin_of is not None:
            self.residents(model.key).share(twin_of, session)
        if durability is not Durability.NONE:
            await self.keeper.stored(keeping)
        return session

    async def find(self, session_id: str) -> Session[Outcome]:
        """An open session, from the shared store if it is there and no other server has it.

        Raises SessionGoneError, SessionModelError, SessionElsewhereError, StoreUnavailableError;
        InvalidArgumentError if the id is empty.
        """
        if not session_id:
            raise InvalidArgumentError("session_id", "nothing", "the id of an open session")
        if self.table.find(session_id) is None:
            self.keeper.check_here(session_id)
            if self.keeper.is_shared:
                await self._claim(session_id)
        return self.table.get(session_id, self._clock())

    def model_of(self, session: Session[Outcome]) -> LoadedModel:
        return self.registry.at(session.model)

    def residents(self, key: ModelKey) -> Residents:
        return self._residents[key]

    async def close(self, session: Session[Outcome]) -> int:
        """End a session; its last position. Raises SessionGoneError."""
        self.table.close(session.session_id, self._clock())
        self._settle_end(session)
        if session.keeping.durability is Durability.ALWAYS and session.keeping.is_over:
            await self.keeper.stored(session.keeping)
        return session.tail

    def page(self, after: int, size: int, model: str) -> tuple[list[Session[Outcome]], bool, int]:
        """Sessions created after serial `after`, whether more follow, and how many match in all."""
        sessions, more = self.table.page(after, size, model, self._clock())
        return sessions, more, self.table.total(model)

    def expire(self) -> int:
        """End the sessions that nobody used in time; how many."""
        expired = self.table.expire(self._clock())
        for session in expired:
            self._settle_end(session)
        return len(expired)

    def check_idle(self, session: Session[Outcome]) -> None:
        """Raises SessionBusyError if work is in flight, SessionGoneError if the session is over."""
        if session.ended is not None:
            raise session.ended(session.session_id)
        if not self.residents(session.model).is_idle(session):
            raise SessionBusyError(session.session_id, session.tail - session.position)

    # --- work ---

    def step(
        self,
        session: Session[Outcome],
        position: int | None,
        inputs: NDArray[Any],
        options: Options = NO_OPTIONS,
        *,
        owner: object | None = None,
    ) -> tuple[Job, bool]:
        """Apply inputs. Returns the job and whether it was admitted before.

        owner: the stream that the step came by; the session becomes that stream's.
        Raises the errors of `SessionTable.admit` and `claim`, StepsExhaustedError and StoreUnavailableError.
        """
        if owner is not None:
            self.table.check_owner(session, owner)
        job, replayed = self._request(session, Kind.STEP, position, inputs, options)
        if owner is not None:
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
        with self.reserved(len(tokens)):
            self.residents(model.key).run_from(None, [job])
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
        except PositionMismatchError:
            if position is None or position >= session.tail:
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

    def reserved(self, count: int) -> Reservation:
        """A context in which `count` inputs are pending. Raises StepsExhaustedError."""
        self._check_room(count)
        return Reservation(self, count)

    # --- the end ---

    def drain(self) -> None:
        """Refuse new sessions from now on. Work on open ones goes on."""
        self.draining.set()

    async def stop(self) -> None:
        """Wait for the batch that is being computed, and compute no more. What is not flushed is lost."""
        self._compute.close()
        for residents in self._residents.values():
            await residents.close()
        await self.keeper.close()

    # --- inside ---

    def _checked_ttl(self, ttl: float | None) -> float:
        limit = self.settings.idle_ttl_limit_seconds
        if ttl is None:
            return self.settings.idle_ttl_seconds
        if not 0 < ttl <= limit:
            raise InvalidArgumentError("idle_ttl", f"{ttl:g} s", f"more than 0 and at most {limit:g} s")
        return ttl

    def _bind(self, session: Session[Outcome]) -> None:
        session.keeping.on_gone = lambda refusal: self._gone(session, refusal)
        session.keeping.on_left = session.entries.clear

    def _gone(self, session: Session[Outcome], refusal: Refusal) -> None:
        """The store refuses what happens to a session: it is another server's."""
        if refusal is Refusal.FENCED:
            log.warning("a session was taken over by another server", session=session.session_id)
        self.table.end(session, SessionMovedError)
        self._settle_end(session)

    async def _claim(self, session_id: str) -> None:
        running = self._claims.get(session_id)
        if running is not None:
            await running
            return
        done = self._claims[session_id] = asyncio.get_running_loop().create_future()
        try:
            held = await self.keeper.claim(session_id)
            if held is not None and self.table.find(session_id) is None:
                self._adopt(held)
        finally:
            del self._claims[session_id]
            done.set_result(None)

    def _adopt(self, held: Held) -> None:
        """Raises SessionGoneError, SessionModelError."""
        if held.ended:
            self.table.remember(held.session_id, ENDED.get(held.ended, SessionLostError))
            return
        keeping, model = self.keeper.adopt(held)
        session = self.table.open(
            held.session_id, model.key, keeping, self._clock(), ttl=keeping.meta.ttl, position=held.position
        )
        session.may_have_lost = True
        self._bind(session)

    def _request(
        self,
        session: Session[Outcome],
        kind: Kind,
        position: int | None,
        inputs: NDArray[Any],
        options: Options,
    ) -> tuple[Job, bool]:
        hashed = digest(kind, inputs, options)
        try:
            entry, fresh = self._admit(session, position, len(inputs), hashed)
        except PositionMismatchError:
            if position is None or position >= session.tail:
                raise
            job = Job(inputs, position, kind=kind, options=options)
            self._recall.job(session, job, hashed)
            return job, True
        if not fresh:
            return _outcome(entry, Job), True
        job = Job(inputs, entry.start, kind=kind, options=options, tag=entry)
        entry.outcome = job
        self._submit(session, job)
        return job, False

    def _admit(
        self, session: Session[Outcome], position: int | None, count: int, hashed: bytes
    ) -> tuple[Entry[Outcome], bool]:
        if position is None or position == session.tail:  # a retry needs no room
            self._check_room(count)
            self.keeper.check_usable(session.keeping.durability)
        return self.table.admit(session, position, count, hashed, self._clock())

    def _check_room(self, count: int) -> None:
        limit = self.settings.max_pending_steps
        if self._pending + count > limit:
            raise StepsExhaustedError(self._pending, count, limit)

    def _feed(self, entry: Entry[Outcome], options: GenerationOptions, token: int) -> Job:
        """Let a generation go on: one more input. Raises as `SessionTable.extend` does."""
        start = entry.start + entry.count
        self.table.extend(entry, 1, self._clock())
        asked = Options(options.sampling, more=options.key())
        job = Job(np.array((token,), np.uint32), start, kind=Kind.FEED, options=asked, tag=entry)
        self._submit(entry.session, job)
        return job

    def _submit(self, session: Session[Outcome], job: Job) -> None:
        self._pending += len(job.inputs)
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
            self._pending -= len(job.inputs)
            session = entry.session
            if job.error is not None:
                self.table.lose(session)
                settled.append(job)
            elif self._applied(session, entry, job):
                settled.append(job)
            if session.ended is not None:
                self._settle_end(session)
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
        if keeping.durability is Durability.NONE:
            return True
        if keeping.durability is Durability.EVERYSEC:
            keeping.write()
            return True
        keeping.write(lambda refusal: _acknowledge(session, job, refusal), at_once=True)
        return False

    def _not_brought(self, session: Session[Outcome], jobs: list[Job], error: KeepgateError) -> None:
        """A session's state could not be made: none of its jobs will be done."""
        if isinstance(error, SessionLostError):
            self.table.lose(session)
        else:
            self.table.retract(session)
        for job in jobs:
            self._pending -= len(job.inputs)
            job.error = error if isinstance(error, RequestError) else SessionLostError(session.session_id)
            job.settle()
        self._settle_end(session)

    def _settle_end(self, session: Session[Outcome]) -> None:
        """If a session is over and nothing of it is in flight, give back what it has."""
        if session.ended is not None and session.position == session.tail:
            self.residents(session.model).remove(session)
            self.keeper.over(session.keeping, session.ended)


class Reservation:
    """Inputs that count as pending while no session's entry counts them."""

    def __init__(self, sequences: Sequences, count: int) -> None:
        self._sequences = sequences
        self._count = count

    def __enter__(self) -> None:
        self._sequences._pending += self._count

    def __exit__(self, *_: object) -> None:
        self._sequences._pending -= self._count


def _acknowledge(session: Session[Outcome], job: Job, refusal: Refusal | None) -> None:
    if refusal is not None:
        job.reply, job.error = None, SessionMovedError(session.session_id)
    job.settle()


def _outcome(entry: Entry[Outcome], kind: type[Kept]) -> Kept:
    """The outcome of a request that came again. The digest covers the kind of request."""
    if not isinstance(entry.outcome, kind):
        raise TypeError(f"expected an entry of a {kind.__name__}, got {entry.outcome!r}")
    return entry.outcome
