"""The session table by transcripts, and against a model that keeps everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from keepgate.errors import (
    PositionMismatchError,
    RequestError,
    SessionClosedError,
    SessionExpiredError,
    SessionGoneError,
    SessionMovedError,
    SessionNotFoundError,
    StepMismatchError,
)
from keepgate.sessions.session import Entry, ModelKey, Session
from keepgate.sessions.table import SessionTable
from support.transcripts import read_transcripts, replay

KEEPING: Any = None
"""What makes a session last is nothing that the table looks at."""
MODEL = ModelKey("m", "1")
CASES = read_transcripts("sessions.txt")


class Player:
    """Answers the events of tests/transcripts/sessions.txt with a table."""

    def __init__(self) -> None:
        self.table: SessionTable[str] = SessionTable()
        self.sessions: dict[str, Session[str]] = {}
        self.entries: dict[str, list[Entry[str]]] = {}

    def answer(self, event: str) -> str:
        time, verb, *arguments = event.removeprefix("@").split()
        try:
            return str(getattr(self, verb.replace("-", "_"))(float(time), *arguments))
        except RequestError as error:
            return f"{type(error).__name__}: {error}"

    def open(self, now: float, name: str, ttl: str = "ttl=1000") -> str:
        seconds = float(ttl.removeprefix("ttl="))
        self.sessions[name] = self.table.open(name, MODEL, KEEPING, now, ttl=seconds, slot=0)
        self.entries[name] = []
        return self._show(name)

    def get(self, now: float, name: str) -> str:
        assert self.table.get(name, now) is self.sessions[name]
        return self._show(name)

    def step(self, now: float, name: str, position: str, count: str, digest: str) -> str:
        session = self.table.get(name, now)
        at = None if position == "-" else int(position)
        entry, fresh = self.table.admit(session, at, int(count), digest.encode(), now)
        if fresh:
            self.entries[name].append(entry)
        assert entry in self.entries[name]
        return f"{'new' if fresh else 'again'}: {self._show(name)}"

    def extend(self, now: float, name: str, count: str) -> str:
        self.table.extend(self.entries[name][-1], int(count), now)
        return self._show(name)

    def extend_first(self, now: float, name: str, count: str) -> str:
        self.table.extend(self.entries[name][0], int(count), now)
        return self._show(name)

    def done(self, now: float, name: str, count: str) -> str:
        entry = next(entry for entry in self.entries[name] if entry.unapplied)
        self.table.complete(entry, int(count))
        return self._show(name)

    def close(self, now: float, name: str) -> str:
        assert self.table.close(name, now) is self.sessions[name]
        return self._show(name)

    def lose(self, now: float, name: str) -> str:
        self.table.lose(self.sessions[name])
        return self._show(name)

    def claim(self, now: float, name: str, stream: str) -> str:
        self.table.claim(self.table.get(name, now), stream)
        return self._show(name)

    def expire(self, now: float) -> str:
        return " ".join(["expired:", *(session.session_id for session in self.table.expire(now))])

    def _show(self, name: str) -> str:
        session = self.sessions[name]
        shown = f"{name} at {session.position}"
        if session.tail != session.position:
            return f"{shown}, tail {session.tail}"
        return shown if session.ended is None else f"{shown}, state free"


@pytest.mark.parametrize("title", CASES)
def test_transcript(title: str) -> None:
    assert replay(CASES[title], Player().answer) == CASES[title]


def test_state_is_given_back_once() -> None:
    table: SessionTable[str] = SessionTable()
    session = table.open("a", MODEL, KEEPING, 0.0, ttl=10.0, slot=7)
    entry, _ = table.admit(session, 0, 2, b"x", 0.0)
    assert session.take_free_slot() is None
    table.close("a", 0.0)
    assert session.take_free_slot() is None
    table.complete(entry, 2)
    assert session.take_free_slot() == 7
    assert session.take_free_slot() is None


def test_only_the_last_ends_are_remembered() -> None:
    table: SessionTable[str] = SessionTable(tombstones=2)
    for name in "abc":
        table.open(name, MODEL, KEEPING, 0.0, ttl=10.0, slot=0)
        table.close(name, 0.0)
    with pytest.raises(SessionNotFoundError):
        table.get("a", 0.0)
    for name in "bc":
        with pytest.raises(SessionClosedError):
            table.get(name, 0.0)


def test_an_end_stays_its_owners() -> None:
    table: SessionTable[str] = SessionTable()
    for name in ("here", "moved"):
        table.open(name, MODEL, KEEPING, 0.0, ttl=10.0, slot=0, principal="alice")
    table.close("here", 0.0, "alice")
    moved = table.find("moved")
    assert moved is not None
    table.end(moved, SessionMovedError)
    for name in ("here", "moved"):
        table.remember(name, SessionExpiredError)  # as a store tells it, which does not know whose it was
    with pytest.raises(SessionClosedError):
        table.get("here", 0.0, "alice")
    with pytest.raises(SessionExpiredError):
        table.get("moved", 0.0, "alice")
    for name in ("here", "moved"):
        for principal in ("bob", ""):
            with pytest.raises(SessionNotFoundError):
                table.get(name, 0.0, principal)


def test_pages_in_order_of_creation() -> None:
    table: SessionTable[str] = SessionTable()
    other = ModelKey("n", "1")
    for index in range(10):
        table.open(f"s{index}", MODEL if index % 2 else other, KEEPING, 0.0, ttl=10.0, slot=index)
    table.close("s3", 1.0)
    first, more = table.page(0, 3, "", 1.0)
    assert [session.session_id for session in first] == ["s0", "s1", "s2"]
    assert more
    rest, more = table.page(first[-1].serial, 100, "", 1.0)
    assert [session.session_id for session in rest] == ["s4", "s5", "s6", "s7", "s8", "s9"]
    assert not more
    odd, _ = table.page(0, 100, "m", 1.0)
    assert [session.session_id for session in odd] == ["s1", "s5", "s7", "s9"]
    assert (table.total(""), table.total("m"), table.total("none")) == (9, 4, 0)
    assert (table.count(MODEL), table.count(other)) == (4, 5)


class Known:
    """What the naive model keeps of a session: every request ever applied."""

    def __init__(self, now: float, ttl: float) -> None:
        self.requests: list[tuple[int, int, bytes]] = []  # start, count, digest
        self.applied = 0  # requests
        self.used = now
        self.ttl = ttl
        self.ended: type[SessionGoneError] | None = None

    @property
    def tail(self) -> int:
        return sum(count for _, count, _ in self.requests)

    @property
    def position(self) -> int:
        return sum(count for _, count, _ in self.requests[: self.applied])


NAMES = st.sampled_from("abc")
DIGESTS = st.sampled_from([b"x", b"y"])


class TableAgainstModel(RuleBasedStateMachine):
    """Any order of events: the table and the naive model agree on every answer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table: SessionTable[str] = SessionTable()
        self.known: dict[str, Known] = {}
        self.sessions: dict[str, Session[str]] = {}
        self.entries: dict[str, list[Entry[str]]] = {}

    def expected_end(self, name: str) -> type[SessionGoneError] | None:
        known = self.known.get(name)
        if known is None:
            return SessionNotFoundError
        idle = known.applied == len(known.requests)
        if known.ended is None and idle and self.now >= known.used + known.ttl:
            return SessionExpiredError
        return known.ended

    @rule(seconds=st.floats(0.0, 4.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=NAMES, ttl=st.floats(0.1, 10.0))
    def open(self, name: str, ttl: float) -> None:
        self.sweep()
        if self.expected_end(name) is None:
            with pytest.raises(RequestError, match="is open already"):
                self.table.open(name, MODEL, KEEPING, self.now, ttl=ttl, slot=0)
            return
        self.sessions[name] = self.table.open(name, MODEL, KEEPING, self.now, ttl=ttl, slot=0)
        self.known[name] = Known(self.now, ttl)
        self.entries[name] = []

    @rule(name=NAMES, offset=st.integers(-6, 3), count=st.integers(1, 3), digest=DIGESTS)
    def step(self, name: str, offset: int, count: int, digest: bytes) -> None:
        end = self.expected_end(name)
        if end is not None:
            with pytest.raises(end):
                self.table.get(name, self.now)
            return
        known = self.known[name]
        session = self.table.get(name, self.now)
        position = max(known.tail + offset, 0)
        retained = known.requests[max(known.applied - 1, 0) :]
        same_start = [request for request in retained if request[0] == position]
        if position == known.tail:
            entry, fresh = self.table.admit(session, position, count, digest, self.now)
            assert fresh
            known.requests.append((position, count, digest))
            self.entries[name].append(entry)
            known.used = self.now
        elif not same_start:
            with pytest.raises(PositionMismatchError):
                self.table.admit(session, position, count, digest, self.now)
        elif same_start[0][2] != digest:
            with pytest.raises(StepMismatchError):
                self.table.admit(session, position, count, digest, self.now)
        else:
            entry, fresh = self.table.admit(session, position, count, digest, self.now)
            assert not fresh
            assert entry.start == position
            known.used = self.now

    @precondition(lambda self: any(known.applied < len(known.requests) for known in self.known.values()))
    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        busy = [name for name, known in self.known.items() if known.applied < len(known.requests)]
        name = data.draw(st.sampled_from(busy))
        known = self.known[name]
        entry = self.entries[name][known.applied]
        self.table.complete(entry, entry.count)
        known.applied += 1

    @rule(name=NAMES)
    def close(self, name: str) -> None:
        end = self.expected_end(name)
        if end is not None:
            with pytest.raises(end):
                self.table.close(name, self.now)
            return
        self.table.close(name, self.now)
        self.known[name].ended = SessionClosedError

    @rule()
    def sweep(self) -> None:
        expected = {name for name in self.known if self.expected_end(name) is SessionExpiredError}
        expected -= {name for name, known in self.known.items() if known.ended is not None}
        for known in self.known.values():
            overdue = self.now >= known.used + known.ttl
            if known.ended is None and overdue and known.applied < len(known.requests):
                known.used = self.now  # work in flight counts as use
        assert {session.session_id for session in self.table.expire(self.now)} == expected
        for name in expected:
            self.known[name].ended = SessionExpiredError

    @invariant()
    def positions_agree(self) -> None:
        for name, known in self.known.items():
            session = self.sessions[name]
            assert (session.position, session.tail) == (known.position, known.tail)
            assert len(session.entries) <= 1 + len(known.requests) - known.applied
        assert len(self.table) == sum(known.ended is None for known in self.known.values())


TableAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTableAgainstModel = TableAgainstModel.TestCase
