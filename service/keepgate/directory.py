"""Which sessions there are: new ones, those that come back from a store, and how each one ends.

Used from one event loop.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable

import structlog

from keepgate.config import Settings
from keepgate.engine.job import Job
from keepgate.errors import (
    DrainingError,
    InvalidArgumentError,
    PrincipalSessionsExhaustedError,
    SessionBusyError,
    SessionExistsError,
    SessionGoneError,
    SessionLostError,
    SessionModelError,
    SessionMovedError,
    SessionsExhaustedError,
)
from keepgate.generation import Generation
from keepgate.keeper import ENDED, Keeper
from keepgate.models.registry import LoadedModel, Registry
from keepgate.residents import Residents
from keepgate.security.principal import NOBODY, caller
from keepgate.sessions.durability import Durability
from keepgate.sessions.history import History
from keepgate.sessions.session import ModelKey, Session
from keepgate.sessions.stores.base import Held, Refusal
from keepgate.sessions.table import SessionTable

Outcome = Job | Generation

SESSION_ID_PATTERN = re.compile(r"[A-Za-z0-9._~-]{1,128}")
SESSION_ID_BYTES = 16
OIP_PREFIX = "oip."
"""How ids of the Open Inference Protocol's sequences begin. They follow from names that others may know."""
RECOVERED_AT_ONCE = 256
"""Between so many, the event loop gets its turn: other sessions may be at work."""

log = structlog.get_logger(__name__)


class Directory:
    """The sessions of all loaded models: those in the table, and those that a store can give.

    A session belongs to the principal in whose call it began: `keepgate.security.principal.caller`. For every
    other one there is no such session.
    """

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
        self.opened: Counter[ModelKey] = Counter()
        self.adopted: Counter[ModelKey] = Counter()  # those that came from the store
        self.ended: Counter[tuple[ModelKey, type[SessionGoneError]]] = Counter()
        self._clock = clock
        self._residents: dict[ModelKey, Residents] = {}
        self._claims: dict[tuple[str, str], asyncio.Future[bool]] = {}

    async def recover(self) -> None:
        """At start: know the sessions that this server has in its store. Raises StoreError."""
        await self._recover(await self.keeper.held())

    async def recover_of(self, key: ModelKey) -> None:
        """A model was loaded: know the stored sessions that could not go on without it."""
        await self._recover(self.keeper.stranded(key))

    async def open(
        self,
        model: LoadedModel,
        session_id: str = "",
        *,
        ttl: float | None = None,
        durability: Durability | None = None,
        state: bytes | None = None,
        of_oip: bool = False,
    ) -> Session[Outcome]:
        """A new session at position 0. session_id "", ttl None and durability None leave the choice to the
        server.

        state: as `Slots.read` returns it; None for zeros. of_oip: as `begin`. Raises InvalidArgumentError,
        SessionExistsError, SessionsExhaustedError, DrainingError, StoreUnavailableError.
        """
        await self.clear(session_id, durability)
        history = self.residents(model.key).history(0, state)
        return await self.begin(model, session_id, history, ttl=ttl, durability=durability, of_oip=of_oip)

    async def clear(self, session_id: str, durability: Durability | None) -> None:
        """Return once a store knows the end of an earlier session of this id, "" for none.

        What is to be durable the store itself refuses under an id that is taken. For other sessions a store
        that servers share is asked. Raises SessionExistsError, StoreUnavailableError.
        """
        await self.keeper.ended(session_id)
        if (self.settings.durability if durability is None else durability) is not Durability.NONE:
            return
        if SESSION_ID_PATTERN.fullmatch(session_id) and await self.keeper.is_taken(session_id):
            raise SessionExistsError(session_id)

    async def begin(
        self,
        model: LoadedModel,
        session_id: str,
        history: History,
        *,
        ttl: float | None,
        durability: Durability | None,
        twin_of: Session[Outcome] | None = None,
        field: str = "session_id",
        of_oip: bool = False,
    ) -> Session[Outcome]:
        """A new session with a history, or a copy of the one that has it. Arguments and errors as for `open`.

        field: what the request calls the new session's id. of_oip: whether it is a sequence of the Open
        Inference Protocol; a principal's other ids must not begin with OIP_PREFIX. For the id, `clear` must
        have returned.
        """
        if self.draining.is_set():
            raise DrainingError
        session_id = session_id or secrets.token_bytes(SESSION_ID_BYTES).hex()
        if not SESSION_ID_PATTERN.fullmatch(session_id):
            raise InvalidArgumentError(
                field, f"{session_id[:129]!r}", "1 to 128 characters of [A-Za-z0-9._~-]"
            )
        principal = caller()
        if session_id.startswith(OIP_PREFIX) and principal != NOBODY and not of_oip:
            raise InvalidArgumentError(
                field, repr(session_id), f"another beginning: {OIP_PREFIX!r} is the Open Inference Protocol's"
            )
        ttl = self._checked_ttl(ttl)
        durability = self.settings.durability if durability is None else durability
        self.keeper.check_usable(durability)
        self.expire()
        self.table.check_absent(session_id)
        if self.keeper.is_stranded(session_id) or self.keeper.is_ending(session_id):
            raise SessionExistsError(session_id)
        limit = self.settings.max_sessions_per_principal
        if limit and self.table.count_of(principal) >= limit:
            raise PrincipalSessionsExhaustedError(limit)
        limit = self.settings.max_sessions
        if self.table.count(model.key) >= limit:
            raise SessionsExhaustedError(model.key.name, model.key.version, limit)
        keeping = self.keeper.create(session_id, model, ttl, durability, history, principal)
        now, position = self._clock(), history.position
        session = self.table.open(
            session_id, model.key, keeping, now, ttl=ttl, position=position, principal=principal
        )
        self.opened[model.key] += 1
        self._bind(session)
        if twin_of is not None:
            self.residents(model.key).share(twin_of, session)
        if durability is not Durability.NONE:
            await self.keeper.stored(keeping)
        return session

    async def find(self, session_id: str) -> Session[Outcome]:
        """An open session of the caller's, from the shared store if it is there and no other server has it.

        Raises SessionGoneError, SessionModelError, SessionElsewhereError, StoreUnavailableError;
        InvalidArgumentError if the id is empty.
        """
        if not session_id:
            raise InvalidArgumentError("session_id", "nothing", "the id of an open session")
        principal = caller()
        if self.table.find(session_id) is None:
            self.keeper.check_here(session_id, principal)
            if self.keeper.is_shared and not self.keeper.is_ending(session_id):
                await self._claim(session_id, principal)
        session = self.table.get(session_id, self._clock(), principal)
        session.settle()
        return session

    def model_of(self, session: Session[Outcome]) -> LoadedModel:
        return self.registry.at(session.model)

    def residents(self, key: ModelKey) -> Residents:
        return self._residents[key]

    def served(self) -> list[tuple[ModelKey, Residents]]:
        """Each loaded model's; safe in any thread."""
        return list(self._residents.items())

    async def close(self, session: Session[Outcome]) -> int:
        """End a session; its last position. Raises SessionGoneError."""
        self.table.close(session.session_id, self._clock(), session.principal)
        self.settle_end(session)
        if session.keeping.durability is Durability.ALWAYS and session.keeping.is_over:
            await self.keeper.stored(session.keeping)
        return session.tail

    def page(self, after: int, size: int, model: str) -> tuple[list[Session[Outcome]], bool, int]:
        """The caller's sessions after serial `after`, whether more follow, and how many match in all."""
        principal = caller()
        sessions, more = self.table.page(after, size, model, self._clock(), principal)
        for session in sessions:
            session.settle()
        return sessions, more, self.table.total(model, principal)

    def expire(self) -> int:
        """End the sessions that nobody used in time; how many."""
        expired = self.table.expire(self._clock())
        for session in expired:
            self.settle_end(session)
        return len(expired)

    def now(self) -> float:
        """Seconds of the clock that deadlines are in."""
        return self._clock()

    def check_idle(self, session: Session[Outcome]) -> None:
        """Raises SessionBusyError if work is in flight, SessionGoneError if the session is over."""
        if session.ended is not None:
            raise session.ended(session.session_id)
        session.settle()
        if not self.residents(session.model).is_idle(session):
            raise SessionBusyError(session.session_id, session.tail - session.position)

    def drain(self) -> None:
        """Refuse new sessions from now on. Work on open ones goes on."""
        self.draining.set()

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
        self.settle_end(session)

    async def _claim(self, session_id: str, principal: str) -> None:
        key = session_id, principal
        while (running := self._claims.get(key)) is not None:
            await asyncio.wait([running])  # which leaves it alone if this wait is cancelled
            if running.result() or self.table.find(session_id) is not None:
                return
        done = self._claims[key] = asyncio.get_running_loop().create_future()
        well = False
        try:
            held = await self.keeper.claim(session_id, principal)
            if held is not None and self.table.find(session_id) is None:
                self._adopt(held)
            well = True
        finally:  # if it failed, those who wait try for themselves
            del self._claims[key]
            done.set_result(well)

    async def _recover(self, stored: list[Held]) -> None:
        known = 0
        for number, held in enumerate(stored, 1):
            try:
                self._adopt(held)
                known += 1
            except (SessionModelError, SessionGoneError) as error:
                if not held.ended:
                    log.warning("a stored session cannot go on", error=str(error))
            if number % RECOVERED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if known:
            log.info("sessions recovered", sessions=known)

    def _adopt(self, held: Held) -> None:
        """Raises SessionGoneError, SessionModelError."""
        if held.ended:
            # Whose it was, no store keeps: on a server with principals it is forgotten, unless it ended here.
            self.table.remember(held.session_id, ENDED.get(held.ended, SessionLostError))
            return
        keeping, model = self.keeper.adopt(held)
        session = self.table.open(
            held.session_id,
            model.key,
            keeping,
            self._clock(),
            ttl=keeping.meta.ttl,
            position=held.position,
            principal=keeping.meta.principal,
        )
        session.may_have_lost = True
        self.adopted[model.key] += 1
        self._bind(session)

    def settle_end(self, session: Session[Outcome]) -> None:
        """If a session is over and nothing of it is in flight, give back what it has."""
        if session.ended is None:
            return
        if session.position != session.tail:
            self.keeper.ending(session.keeping)
            if session.bound is not None:
                session.bound.over(session)
            return
        self.residents(session.model).remove(session)
        if not session.keeping.is_over:  # this may be said more than once
            self.ended[session.model, session.ended] += 1
        self.keeper.over(session.keeping, session.ended)
