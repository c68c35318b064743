"""Which store keeps which session, and how sessions come back from it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import NamedTuple

import structlog

from keepgate.config import Settings
from keepgate.errors import (
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionGoneError,
    SessionLostError,
    SessionModelError,
    SessionMovedError,
    StoreError,
    StoreUnavailableError,
)
from keepgate.models.registry import LoadedModel, Registry
from keepgate.sessions.durability import Durability
from keepgate.sessions.history import History
from keepgate.sessions.journal import Journal
from keepgate.sessions.keeping import Keeping, Meta
from keepgate.sessions.session import ModelKey
from keepgate.sessions.stores.base import META, Held, Refusal, Store

EPOCH_BITS = 48
"""A session's first epoch is drawn: one of the same id that ended long ago had another."""
ENDS: Mapping[type[SessionGoneError], str] = {
    SessionClosedError: "closed",
    SessionExpiredError: "expired",
    SessionLostError: "lost",
}
ENDED: Mapping[str, type[SessionGoneError]] = {name: kind for kind, name in ENDS.items()}

log = structlog.get_logger(__name__)


class _Ending(NamedTuple):
    """A durable session that is over in memory. told: when the store knows."""

    keeping: Keeping
    told: asyncio.Event


class _Stranded(NamedTuple):
    """A session of this server whose model is not here. error: what its principal is told."""

    error: SessionModelError
    model: ModelKey
    principal: str
    held: Held


class Keeper:
    """store: for durable sessions, None if the server has none. spill: for the others, while they are not in
    memory; it ends with the process."""

    def __init__(self, registry: Registry, settings: Settings, store: Store | None, spill: Store) -> None:
        self.settings = settings
        self._registry = registry
        self._lasting = Journal(store) if store is not None else None
        self._passing = Journal(spill)
        self._ending: dict[str, _Ending] = {}
        self._stranded: dict[str, _Stranded] = {}

    @property
    def is_shared(self) -> bool:
        """Whether a session that is unknown here may be in the store."""
        return self._lasting is not None and self._lasting.store.shared

    def create(
        self,
        session_id: str,
        model: LoadedModel,
        ttl: float,
        durability: Durability,
        history: History,
        principal: str = "",
    ) -> Keeping:
        """The lasting part of a new session of the principal's. The server has a store if `durability`
        needs one."""
        weights, kernel = model.network.fingerprint, _kernel(model)
        meta = Meta(model.key, weights, kernel, durability, ttl, time.time(), principal)
        epoch = secrets.randbits(EPOCH_BITS)
        # In the spill, a session is apart from an earlier one of its id, which may not be out of there yet.
        name = f"{session_id}/{epoch}" if durability is Durability.NONE else session_id
        return Keeping(session_id, meta, self._journal(durability), epoch, history, name=name)

    def check_usable(self, durability: Durability) -> None:
        """Raises StoreUnavailableError if what is to be durable would have to wait for the store."""
        if durability is not Durability.NONE and self._journal(durability).failing_since is not None:
            raise StoreUnavailableError

    def check_here(self, session_id: str, principal: str) -> None:
        """Raises SessionModelError if the principal's session is this server's, but its model is not."""
        stranded = self._stranded.get(session_id)
        if stranded is not None and stranded.principal == principal:
            raise stranded.error.with_traceback(None)

    def end_stranded(self, session_id: str) -> None:
        """End a session that `check_here` refused; `ended` tells when the store knows."""
        held = self._stranded.pop(session_id).held
        meta, journal = Meta.unpack(held.items[META]), self._journal(Durability.ALWAYS)
        keeping = Keeping(session_id, meta, journal, held.epoch, None, durable=held.position)
        self.over(keeping, SessionClosedError)

    def is_stranded(self, session_id: str) -> bool:
        """Whether the session is this server's, but its model is not."""
        return session_id in self._stranded

    def stranded(self, key: ModelKey) -> list[Held]:
        """The sessions that wait for this model, to be given to `adopt` again."""
        return [stranded.held for stranded in self._stranded.values() if stranded.model == key]

    async def held(self) -> list[Held]:
        """At start: the sessions that are this server's. Raises StoreError."""
        if self._lasting is None:
            return []
        store = self._lasting.store
        return await self._lasting.call(lambda: list(store.held()))

    async def claim(self, session_id: str, principal: str) -> Held | None:
        """Take over a session of the principal's from the shared store, if it is there.

        Another principal's stays where it is. Raises SessionElsewhereError, StoreUnavailableError.
        """
        lasting = self._lasting
        if lasting is None:
            return None
        try:
            meta = await lasting.call(lambda: lasting.store.meta(session_id))
            if meta is not None and _principal_of(meta) != principal:
                return None
            return await lasting.claim(session_id)
        except StoreError as error:
            raise StoreUnavailableError from error

    async def is_taken(self, session_id: str) -> bool:
        """Whether a live session of this id is in the shared store. Raises StoreUnavailableError."""
        lasting = self._lasting
        if lasting is None or not self.is_shared:
            return False
        try:
            return await lasting.call(lambda: lasting.store.meta(session_id)) is not None
        except StoreError as error:
            raise StoreUnavailableError from error

    def adopt(self, held: Held) -> tuple[Keeping, LoadedModel]:
        """The lasting part of a session that came from the store.

        Raises SessionModelError if its model is not here, SessionLostError if it is damaged.
        """
        if self._lasting is None:
            raise RuntimeError("a session came from a store that is not there")
        try:
            meta = Meta.unpack(held.items[META])
        except (KeyError, ValueError) as error:
            log.error("a stored session is damaged", session=held.session_id, error=str(error))
            raise SessionLostError(held.session_id) from error
        model = self._registry.find(meta.model)
        if model is None or model.network.fingerprint != meta.weights:
            fault = "is not loaded here" if model is None else "has other weights here"
            refusal = SessionModelError(held.session_id, meta.model.name, meta.model.version, fault)
            told = held._replace(items={META: held.items[META]})
            self._stranded[held.session_id] = _Stranded(refusal, meta.model, meta.principal, told)
            raise refusal
        self._stranded.pop(held.session_id, None)
        keeping = Keeping(held.session_id, meta, self._lasting, held.epoch, None, durable=held.position)
        kernel = _kernel(model)
        if kernel != meta.kernel:
            log.warning(
                "a session goes on with another kernel", session=held.session_id, was=meta.kernel, now=kernel
            )
        return keeping, model

    async def stored(self, keeping: Keeping) -> None:
        """Return once the store knows all of a session.

        Raises SessionExistsError, SessionMovedError if it refuses.
        """
        done: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        keeping.write(lambda refusal: None if done.done() else done.set_result(refusal), at_once=True)
        refusal = await done
        if refusal is Refusal.EXISTS:
            raise SessionExistsError(keeping.session_id)
        if refusal is Refusal.FENCED:
            raise SessionMovedError(keeping.session_id)

    def ending(self, keeping: Keeping) -> None:
        """A session has ended, but for its work in flight. `over` comes when that is done."""
        if keeping.durability is not Durability.NONE:
            self._ending.setdefault(keeping.session_id, _Ending(keeping, asyncio.Event()))

    def over(self, keeping: Keeping, how: type[SessionGoneError]) -> None:
        """A session has ended: let the store know, if it knows the session."""
        if keeping.is_over:
            return
        self.ending(keeping)
        keeping.end(ENDS.get(how, ""))
        if keeping.is_stored and how in ENDS:
            keeping.write(lambda _: self._has_ended(keeping))
        else:
            self._has_ended(keeping)

    def is_ending(self, session_id: str) -> bool:
        """Whether a durable session of this id has ended, and the store does not know yet."""
        return session_id in self._ending

    async def ended(self, session_id: str) -> None:
        """Return when the store knows that a session which had this id is over."""
        while (earlier := self._ending.get(session_id)) is not None:
            if earlier.keeping.is_over:  # else its work in flight comes first
                earlier.keeping.write(at_once=True)
            await earlier.told.wait()

    @property
    def journals(self) -> Mapping[str, Journal]:
        """By what they are for: "spill" of sessions without durability, "durable" if there is a store."""
        return {"spill": self._passing} | ({"durable": self._lasting} if self._lasting is not None else {})

    async def flush(self) -> None:
        """Write all that the store does not know."""
        if self._lasting is not None:
            await self._lasting.flush()

    async def close(self) -> None:
        """Let go of the stores; what was not flushed is lost."""
        for journal in (self._passing, self._lasting):
            if journal is not None:
                await journal.close()

    def _has_ended(self, keeping: Keeping) -> None:
        keeping.on_gone = keeping.on_left = None  # they lead back to the session: a cycle
        ending = self._ending.get(keeping.session_id)
        if ending is not None and ending.keeping is keeping:
            del self._ending[keeping.session_id]
            ending.told.set()

    def _journal(self, durability: Durability) -> Journal:
        if durability is Durability.NONE:
            return self._passing
        if self._lasting is None:
            raise RuntimeError(f"durability {durability} without a store")
        return self._lasting


def _principal_of(packed: bytes) -> str:
    """Whose session it is, by its Meta; nobody's, if that is damaged."""
    try:
        return Meta.unpack(packed).principal
    except ValueError:
        return ""


def _kernel(model: LoadedModel) -> str:
    """What computes the model's states: two of the same give the same bits."""
    return f"{model.network.kernel}/{model.network.precision}"
