"""What the server does with sequences, in the terms of the domain: no gRPC, no protobuf.

Joins the registry, the session table and one engine per loaded model. Every protocol calls this.
Used from one event loop. Inputs are checked where they are converted: what comes here is valid for
its model.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import struct
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from keepgate_kernels import Sampling
from numpy.typing import NDArray

from keepgate.config import Settings
from keepgate.engine.engine import ComputeThread, Engine
from keepgate.engine.job import GREEDY, NOTHING_MORE, Job, Scores, Wants
from keepgate.errors import (
    DrainingError,
    InvalidArgumentError,
    SessionsExhaustedError,
    StepsExhaustedError,
)
from keepgate.generation import Generation, GenerationOptions
from keepgate.models.registry import LoadedModel, Registry
from keepgate.sessions.table import Entry, ModelKey, Session, SessionTable

Outcome = Job | Generation
Kind = TypeVar("Kind", Job, Generation)

SESSION_ID_PATTERN = re.compile(r"[A-Za-z0-9._~-]{1,128}")
SESSION_ID_BYTES = 16


class Sequences:
    """The sessions of all loaded models."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.table: SessionTable[Outcome] = SessionTable()
        self.draining = asyncio.Event()
        self._clock = clock
        self._compute = ComputeThread()
        self._engines = {
            model.key: Engine(model.network, self._compute, self._on_done, max_lanes=settings.max_batch)
            for model in registry
        }
        self._pending = 0  # inputs admitted and not yet applied

    # --- sessions ---

    def open(self, model: LoadedModel, session_id: str, ttl: float | None) -> Session[Outcome]:
        """A new session at position 0. session_id "" and ttl None leave the choice to the server.

        Raises InvalidArgumentError, SessionExistsError, SessionsExhaustedError, DrainingError.
        """
        if self.draining.is_set():
            raise DrainingError
        session_id = session_id or secrets.token_hex(SESSION_ID_BYTES)
        if not SESSION_ID_PATTERN.fullmatch(session_id):
            raise InvalidArgumentError(
                "session_id", f"{session_id[:129]!r}", "1 to 128 characters of [A-Za-z0-9._~-]"
            )
        ttl = self._checked_ttl(ttl)
        self.expire()
        self.table.check_absent(session_id)
        slot = self._allocate(model)
        return self.table.open(session_id, model.key, slot, ttl, self._clock())

    def session(self, session_id: str) -> Session[Outcome]:
        """An open session. Raises SessionGoneError; InvalidArgumentError if the id is empty."""
        if not session_id:
            raise InvalidArgumentError("session_id", "nothing", "the id of an open session")
        return self.table.get(session_id, self._clock())

    def model_of(self, session: Session[Outcome]) -> LoadedModel:
        return self.registry.at(session.model)

    def close(self, session_id: str) -> int:
        """End a session; its last position. Raises as `session` does."""
        session = self.session(session_id)
        self.table.close(session_id, self._clock())
        self._free_slot(session)
        return session.tail

    def page(self, after: int, size: int, model: str) -> tuple[list[Session[Outcome]], bool, int]:
        """Sessions created after serial `after`, whether more follow, and how many match in all."""
        sessions, more = self.table.page(after, size, model, self._clock())
        return sessions, more, self.table.total(model)

    def expire(self) -> int:
        """End the sessions that nobody used in time; how many."""
        expired = self.table.expire(self._clock())
        for session in expired:
            self._free_slot(session)
        return len(expired)

    # --- work ---

    def step(
        self,
        session: Session[Outcome],
        position: int | None,
        inputs: NDArray[Any],
        sampling: Sampling = GREEDY,
        wants: Wants = NOTHING_MORE,
        *,
        owner: object | None = None,
    ) -> tuple[Job, bool]:
        """Apply inputs. Returns the job and whether it was admitted before.

        owner: the stream that the step came by; the session becomes that stream's.
        Raises the errors of `SessionTable.admit` and `claim`, and StepsExhaustedError.
        """
        if owner is not None:
            self.table.check_owner(session, owner)
        digest = _digest(b"step", inputs, sampling, wants)
        entry, fresh = self._admit(session, position, len(inputs), digest)
        if owner is not None:
            self.table.claim(session, owner)
        if not fresh:
            return _outcome(entry, Job), True
        job = Job(session.slot, inputs, entry.start, sampling=sampling, wants=wants, tag=entry)
        entry.outcome = job
        self._submit(session.model, job)
        return job, False

    def score(
        self,
        session: Session[Outcome],
        position: int | None,
        tokens: NDArray[np.uint32],
    ) -> tuple[Job, bool]:
        """Apply tokens and score them. Returns and raises as `step` does."""
        digest = _digest(b"score", tokens, GREEDY, NOTHING_MORE)
        entry, fresh = self._admit(session, position, len(tokens), digest)
        if not fresh:
            return _outcome(entry, Job), True
        job = Job(session.slot, tokens, entry.start, score=True, tag=entry)
        entry.outcome = job
        self._submit(session.model, job)
        return job, False

    async def score_alone(self, model: LoadedModel, tokens: NDArray[np.uint32]) -> Scores:
        """Score tokens from a zero state and keep nothing.

        Raises SessionsExhaustedError, StepsExhaustedError.
        """
        self._check_room(len(tokens))
        slot = self._allocate(model)
        job = Job(slot, tokens, 0, score=True)
        # Not in a `finally`: whoever stops waiting, the slot is in use till the job is done.
        job.when_done(lambda _: model.network.slots.release(slot))
        self._submit(model.key, job)
        reply = await job.wait()
        if not isinstance(reply, Scores):
            raise TypeError(f"a scoring job replied with {type(reply).__name__}")
        return reply

    def generate(
        self,
        session: Session[Outcome],
        position: int | None,
        prompt: NDArray[np.uint32],
        options: GenerationOptions,
    ) -> Generation:
        """Apply a prompt and begin to generate, or find the generation that this request began.

        Raises as `step` does.
        """
        digest = _digest(b"generate", prompt, options.sampling, NOTHING_MORE, options.key())
        entry, fresh = self._admit(session, position, len(prompt), digest)
        if not fresh:
            return _outcome(entry, Generation)
        generation = Generation(
            entry.start + len(prompt), options, lambda token: self._feed(entry, options, token)
        )
        entry.outcome = generation
        job = Job(session.slot, prompt, entry.start, sampling=options.sampling, tag=entry)
        generation.expect(job)
        self._submit(session.model, job)
        return generation

    # --- the end ---

    def drain(self) -> None:
        """Refuse new sessions from now on. Work on open ones goes on."""
        self.draining.set()

    def stop(self) -> None:
        """Wait for the batch that is being computed, and compute no more."""
        self._compute.close()

    # --- inside ---

    def _checked_ttl(self, ttl: float | None) -> float:
        limit = self.settings.idle_ttl_limit_seconds
        if ttl is None:
            return self.settings.idle_ttl_seconds
        if not 0 < ttl <= limit:
            raise InvalidArgumentError("idle_ttl", f"{ttl:g} s", f"more than 0 and at most {limit:g} s")
        return ttl

    def _allocate(self, model: LoadedModel) -> int:
        slot = model.network.slots.allocate()
        if slot is None:
            capacity = model.network.slots.capacity
            raise SessionsExhaustedError(model.key.name, model.key.version, capacity)
        return slot

    def _free_slot(self, session: Session[Outcome]) -> None:
        """Give the state back if nothing needs it; otherwise the last job does."""
        slot = session.take_free_slot()
        if slot is not None:
            self.model_of(session).network.slots.release(slot)

    def _admit(
        self, session: Session[Outcome], position: int | None, count: int, digest: bytes
    ) -> tuple[Entry[Outcome], bool]:
        if position is None or position == session.tail:  # a retry needs no room
            self._check_room(count)
        return self.table.admit(session, position, count, digest, self._clock())

    def _check_room(self, count: int) -> None:
        limit = self.settings.max_pending_steps
        if self._pending + count > limit:
            raise StepsExhaustedError(self._pending, count, limit)

    def _feed(self, entry: Entry[Outcome], options: GenerationOptions, token: int) -> Job:
        """Let a generation go on: one more input. Raises as `SessionTable.extend` does."""
        start = entry.start + entry.count
        self.table.extend(entry, 1, self._clock())
        session = entry.session
        job = Job(session.slot, np.array((token,), np.uint32), start, sampling=options.sampling, tag=entry)
        self._submit(session.model, job)
        return job

    def _submit(self, model: ModelKey, job: Job) -> None:
        self._pending += len(job.inputs)
        self._engines[model].submit(job)

    def _on_done(self, jobs: list[Job]) -> None:
        """One tick's finished jobs, before anyone is answered: where a journal will be written."""
        for job in jobs:
            self._pending -= len(job.inputs)
            entry: Entry[Outcome] | None = job.tag
            if entry is None:  # scored alone, on no session
                continue
            if job.error is None:
                self.table.complete(entry, len(job.inputs))
            else:
                self.table.lose(entry.session)
            self._free_slot(entry.session)
            job.tag = None  # the entry refers to the job: no cycle for each step


def _outcome(entry: Entry[Outcome], kind: type[Kind]) -> Kind:
    """The outcome of a request that came again. The digest covers the kind of request."""
    if not isinstance(entry.outcome, kind):
        raise TypeError(f"expected an entry of a {kind.__name__}, got {entry.outcome!r}")
    return entry.outcome


def _digest(kind: bytes, inputs: NDArray[Any], sampling: Sampling, wants: Wants, more: bytes = b"") -> bytes:
    """What tells two requests apart: 128 bits over their kind, inputs and options."""
    options = struct.pack(
        "<8sdIdQI??",
        kind,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.seed,
        wants.top_k,
        wants.logits,
        wants.hidden,
    )
    digest = hashlib.blake2b(options, digest_size=16)
    digest.update(more)
    digest.update(np.ascontiguousarray(inputs).data)
    return digest.digest()
