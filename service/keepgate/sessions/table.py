"""The rules of sessions: positions, retries, times to live. Pure: no I/O, no clock, no asyncio.

Time comes as an argument, in seconds of one monotonic clock. What a request computes is opaque: its
entry keeps an `outcome`, so that the same request sent again finds it.

A session's entries are requests, each covering the positions [start, start + count):

    applied last │ in flight │ in flight │ tail: where the next request goes
                 └ position

A request that names its position is admitted at the tail; at the start of an entry it is that
request again if the digests are equal, and an error if they are not; anywhere else it is an error.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from keepgate.errors import (
    PositionMismatchError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionGoneError,
    SessionInUseError,
    SessionLostError,
    SessionMovedError,
    SessionNotFoundError,
    StepMismatchError,
    StepsLostError,
)
from keepgate.sessions.session import NO_SLOT, Entry, ModelKey, Session
from keepgate.sessions.wheel import Wheel

if TYPE_CHECKING:
    from keepgate.sessions.keeping import Keeping

Outcome = TypeVar("Outcome")

TOMBSTONES = 65_536
"""Ended sessions that are told apart from unknown ones: about 10 MB."""


class _Own(Generic[Outcome]):
    """One principal's sessions, in order of creation."""

    __slots__ = ("counts", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[str, Session[Outcome]] = {}
        self.counts: Counter[str] = Counter()
        """By the name of the model."""


class SessionTable(Generic[Outcome]):
    """All sessions of a server. To every other principal a session is as one that never was.

    Principals are names; "" is that of a server which knows none, so that all sessions are its own.
    """

    def __init__(self, tombstones: int = TOMBSTONES) -> None:
        self._sessions: dict[str, Session[Outcome]] = {}
        self._own: defaultdict[str, _Own[Outcome]] = defaultdict(_Own)
        self._tombstones: OrderedDict[str, tuple[type[SessionGoneError], str]] = OrderedDict()
        self._tombstone_limit = tombstones
        self._counts: Counter[ModelKey] = Counter()
        self._deadlines: Wheel[Session[Outcome]] = Wheel(lambda session: session.deadline)
        self._serial = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def count(self, model: ModelKey) -> int:
        """Open sessions of one model version."""
        return self._counts[model]

    def count_of(self, principal: str) -> int:
        """Open sessions of one principal."""
        own = self._own.get(principal)
        return 0 if own is None else len(own.sessions)

    def open(
        self,
        session_id: str,
        model: ModelKey,
        keeping: Keeping,
        now: float,
        *,
        ttl: float,
        slot: int = NO_SLOT,
        position: int = 0,
        principal: str = "",
    ) -> Session[Outcome]:
        """Start a session, or go on with one. Raises SessionExistsError."""
        self.check_absent(session_id)
        self._serial += 1
        session: Session[Outcome] = Session(
            session_id, self._serial, model, keeping, slot, position, ttl, now, principal
        )
        self._sessions[session_id] = session
        own = self._own[principal]
        own.sessions[session_id] = session
        own.counts[model.name] += 1
        self._tombstones.pop(session_id, None)
        self._counts[model] += 1
        self._deadlines.add(session)
        return session

    def check_absent(self, session_id: str) -> None:
        """Raises SessionExistsError if a session of this id is open, whosever it is."""
        if session_id in self._sessions:
            raise SessionExistsError(session_id)

    def get(self, session_id: str, now: float, principal: str = "") -> Session[Outcome]:
        """An open session of the principal's. Asking does not prolong its life.

        Raises a SessionGoneError that tells unknown, closed, expired and lost sessions apart.
        """
        session = self._sessions.get(session_id)
        if session is None:
            how, whose = self._tombstones.get(session_id, (SessionNotFoundError, principal))
            raise (how if whose == principal else SessionNotFoundError)(session_id)
        if session.principal != principal:
            raise SessionNotFoundError(session_id)
        if session.last_used + session.ttl <= now >= session.deadline and session.position == session.tail:
            raise SessionExpiredError(session_id)  # the next `expire` takes it out
        return session

    def find(self, session_id: str) -> Session[Outcome] | None:
        """An open session, if there is one. For what is no request, and prolongs nothing."""
        return self._sessions.get(session_id)

    def claim(self, session: Session[Outcome], owner: object) -> None:
        """Make `owner`, a stream, the only one that may step the session till `release`."""
        self.check_owner(session, owner)
        session.owner = owner

    def check_owner(self, session: Session[Outcome], owner: object) -> None:
        """Raises SessionInUseError if the session belongs to another stream."""
        if session.owner is not None and session.owner is not owner:
            raise SessionInUseError(session.session_id)

    def admit(
        self, session: Session[Outcome], position: int | None, count: int, digest: bytes, now: float
    ) -> tuple[Entry[Outcome], bool]:
        """Take a request of `count` inputs; position None means wherever the session is.

        Returns the request's entry, and True if it is new: then the caller starts the work and sets
        `outcome`. False means it was admitted before: its outcome is there.
        Raises SessionGoneError, PositionMismatchError, StepMismatchError; then nothing has changed.
        """
        if session.ended is not None:
            raise session.ended(session.session_id)
        if position is not None and position != session.tail:
            if position > session.tail and session.may_have_lost:
                raise StepsLostError(session.session_id, position, session.tail)
            entry = self._find(session, position)
            if entry.digest != digest:
                raise StepMismatchError(session.session_id, position, session.tail)
            session.last_used = now
            return entry, False
        entry = Entry(session, session.tail, count, digest)
        session.entries.append(entry)
        session.tail += count
        session.last_used = now
        return entry, True

    def extend(self, entry: Entry[Outcome], count: int, now: float) -> None:
        """Let a request go on with `count` more inputs, as a generation does with each token.

        Raises SessionGoneError, and PositionMismatchError if another request came in between.
        """
        session = entry.session
        if session.ended is not None:
            raise session.ended(session.session_id)
        end = entry.start + entry.count
        if end != session.tail:
            raise PositionMismatchError(session.session_id, end, session.tail)
        entry.count += count
        entry.unapplied += count
        session.tail += count
        session.last_used = now

    def complete(self, entry: Entry[Outcome], count: int) -> None:
        """`count` more inputs of an entry were applied. Entries of a session complete in order."""
        session = entry.session
        entry.unapplied -= count
        session.position += count
        entries = session.entries
        while len(entries) > 1 and entries[1].unapplied == 0:
            del entries[0]

    def attach(self, entry: Entry[Outcome], outcome: Outcome) -> None:
        """Keep the outcome of a request again that was the last one applied; if it still is."""
        session, end = entry.session, entry.start + entry.count
        if session.ended is None and not session.entries and session.position == session.tail == end:
            entry.outcome = outcome
            session.entries.append(entry)

    def remember(self, session_id: str, how: type[SessionGoneError], principal: str = "") -> None:
        """A session that is not here ended elsewhere, or before; "" if nobody knows whose it was.

        An end that is known stays its owner's: only where the owner was told that it moved is this newer.
        """
        known, whose = self._tombstones.get(session_id, (how, principal))
        if whose != principal:
            if known is not SessionMovedError:
                return
            principal = whose
        self._tombstones[session_id] = how, principal
        self._tombstones.move_to_end(session_id)
        if len(self._tombstones) > self._tombstone_limit:
            self._tombstones.popitem(last=False)

    def retract(self, session: Session[Outcome]) -> None:
        """Nothing of the session's work in flight will be applied; it goes on where it is."""
        session.tail = session.position
        session.entries[:] = [entry for entry in session.entries if not entry.unapplied]

    def move(self, session: Session[Outcome], position: int) -> None:
        """Set a session that has no work in flight to another position; its kept outcomes go."""
        session.may_have_lost = False
        session.position = session.tail = position
        session.entries.clear()

    def lose(self, session: Session[Outcome]) -> None:
        """The session's state is undefined: end it, and forget its work in flight."""
        session.tail = session.position
        session.entries.clear()
        self.end(session, SessionLostError)

    def end(self, session: Session[Outcome], how: type[SessionGoneError]) -> None:
        """End a session, if nothing has yet. Work in flight is still applied."""
        if session.ended is None:
            self._end(session, how)

    def close(self, session_id: str, now: float, principal: str = "") -> Session[Outcome]:
        """End a session. Work in flight is still applied; `tail` is the last position."""
        session = self.get(session_id, now, principal)
        self._end(session, SessionClosedError)
        return session

    def expire(self, now: float) -> list[Session[Outcome]]:
        """End the sessions whose time is over, and return them. Work in flight keeps one alive."""
        expired: list[Session[Outcome]] = []
        for session in self._deadlines.due(now):
            session.settle()
            if session.position != session.tail:
                session.last_used = now
                self._deadlines.add(session)
                continue
            self._deadlines.add(session)
            self._end(session, SessionExpiredError)
            expired.append(session)
        return expired

    def page(
        self, after: int, size: int, model: str, now: float, principal: str = ""
    ) -> tuple[list[Session[Outcome]], bool]:
        """At most `size` of the principal's sessions created after serial `after`, and whether more follow.

        model: the name of the only model wanted, "" for all.
        """
        own = self._own.get(principal)
        wanted = (
            session
            for session in (() if own is None else own.sessions.values())
            if session.serial > after
            and (not model or session.model.name == model)
            and (session.deadline > now or session.position != session.tail)
        )
        found = list(islice(wanted, size + 1))
        return found[:size], len(found) > size

    def total(self, model: str, principal: str = "") -> int:
        """The principal's open sessions of all versions of a model, "" for all models."""
        own = self._own.get(principal)
        if own is None:
            return 0
        return own.counts[model] if model else len(own.sessions)

    def _find(self, session: Session[Outcome], position: int) -> Entry[Outcome]:
        for entry in session.entries:
            if entry.start == position:
                return entry
        raise PositionMismatchError(session.session_id, position, session.tail)

    def _end(self, session: Session[Outcome], how: type[SessionGoneError]) -> None:
        session.settle()
        session.ended = how
        session.owner = None
        del self._sessions[session.session_id]
        self._deadlines.remove(session)
        self._counts[session.model] -= 1
        own = self._own[session.principal]
        del own.sessions[session.session_id]
        own.counts[session.model.name] -= 1
        if not own.sessions:
            del self._own[session.principal]
        self.remember(session.session_id, how, session.principal)
