"""The judge catches what it is for: a small server of hashes is made to misbehave in each way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import pytest
from faults.checker import Expected, Kind, Report, check
from faults.history import Asked, Begun, Ended, History, Refused, Unanswered, digest

SESSIONS = ("a", "b", "c")
REQUESTS = 6
STEPS = 3


class RefusedError(Exception):
    """reason and position as the server has them."""

    def __init__(self, reason: str, expected: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expected = expected


@dataclass
class HashServer:
    """Sessions whose state is a hash of all inputs; the rules of positions are those of Keepgate."""

    states: dict[str, list[bytes]] = field(default_factory=lambda: {name: [b""] for name in SESSIONS})
    replies: dict[tuple[str, int], bytes] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)

    def step(self, asked: Asked) -> tuple[int, bytes, bool]:
        states = self.states[asked.session]
        position = (len(states) - 1) * STEPS
        if (asked.session, asked.start) in self.replies and asked.start < position:
            return asked.end, self.replies[asked.session, asked.start], True
        if asked.start != position:
            reported = asked.session in self.lost and asked.start > position
            raise RefusedError("STEPS_LOST" if reported else "POSITION_MISMATCH", position)
        self.lost.discard(asked.session)
        states.append(digest(states[-1] + inputs(asked)))
        self.replies[asked.session, asked.start] = states[-1]
        return asked.end, states[-1], False

    def forget(self, session: str, *, reported: bool) -> None:
        """Lose the last request."""
        self.states[session].pop()
        del self.replies[session, (len(self.states[session]) - 1) * STEPS]
        if reported:
            self.lost.add(session)


def inputs(asked: Asked) -> bytes:
    return f"{asked.session}/{asked.index}".encode()


def request(session: str, index: int) -> Asked:
    return Asked(session, index, index * STEPS, (index + 1) * STEPS)


def undisturbed() -> dict[tuple[str, int], Expected]:
    server = HashServer()
    asked = [request(session, index) for index in range(REQUESTS) for session in SESSIONS]
    return {(a.session, a.index): Expected(*server.step(a)[:2]) for a in asked}


RUN = undisturbed()


def ask(server: HashServer, history: History, asked: Asked) -> int:
    """Send a request, note what comes; the index of the request to send next."""
    try:
        position, bits, replayed = server.step(asked)
    except RefusedError as error:
        history.refused(asked, error.reason, error.expected)
        return error.expected // STEPS
    history.answered(asked, position, bits, replayed=replayed)
    return asked.index + 1


def steps(server: HashServer, history: History, first: int, until: int) -> None:
    for index in range(first, until):
        for session in SESSIONS:
            ask(server, history, request(session, index))


def finish(server: HashServer, history: History) -> None:
    for session in SESSIONS:
        history.add(session, Ended((len(server.states[session]) - 1) * STEPS))


def kinds(history: History) -> set[Kind]:
    return set(check(history, RUN).counts)


@pytest.fixture
def server() -> HashServer:
    return HashServer()


@pytest.fixture
def history(server: HashServer) -> History:
    """Half of the requests, answered."""
    seen = History()
    steps(server, seen, 0, 3)
    return seen


def test_a_faultless_history_has_no_faults(server: HashServer, history: History) -> None:
    ask(server, history, request("a", 2))  # a retry
    ask(server, history, request("b", 0))
    steps(server, history, 3, REQUESTS)
    finish(server, history)
    report = check(history, RUN)
    assert report.faults == []
    assert (report.answers, report.replays) == (len(SESSIONS) * REQUESTS + 2, 2)
    assert report.steps == len(SESSIONS) * REQUESTS * STEPS


def test_an_acknowledged_step_lost(server: HashServer, history: History) -> None:
    server.forget("b", reported=False)
    steps(server, history, 3, 4)
    assert kinds(history) == {Kind.LOST}


def test_an_acknowledged_step_lost_at_the_very_end(server: HashServer, history: History) -> None:
    server.forget("b", reported=False)
    finish(server, history)
    assert kinds(history) == {Kind.LOST}


def test_a_step_lost_whose_position_is_not(server: HashServer, history: History) -> None:
    server.states["b"][-1] = server.states["b"][-2]
    steps(server, history, 3, 4)
    assert kinds(history) == {Kind.WRONG}


def test_a_session_lost(server: HashServer, history: History) -> None:
    history.refused(request("a", 3), "SESSION_NOT_FOUND")
    assert kinds(history) == {Kind.LOST}


def test_a_step_applied_twice(server: HashServer, history: History) -> None:
    states = server.states["c"]
    states.append(digest(states[-1] + inputs(request("c", 2))))
    states.append(states[-1])
    steps(server, history, 3, 4)
    assert kinds(history) == {Kind.TWICE}


def test_a_step_applied_twice_at_the_very_end(server: HashServer, history: History) -> None:
    server.states["c"].append(digest(server.states["c"][-1]))
    finish(server, history)
    assert kinds(history) == {Kind.TWICE}


def test_a_step_applied_twice_whose_position_counts_once(server: HashServer, history: History) -> None:
    server.states["c"][-1] = digest(server.states["c"][-1] + inputs(request("c", 2)))
    steps(server, history, 3, 4)
    assert kinds(history) == {Kind.WRONG}


def test_an_answer_that_counts_twice(history: History) -> None:
    asked = request("c", 3)
    history.answered(asked, asked.end + STEPS, RUN["c", 3].bits)
    assert kinds(history) == {Kind.TWICE}


def test_sessions_mixed_up(server: HashServer, history: History) -> None:
    asked = request("a", 3)
    history.answered(asked, asked.end, RUN["b", 3].bits)
    assert kinds(history) == {Kind.MIXED}


def test_states_exchanged(server: HashServer, history: History) -> None:
    states = server.states
    states["a"], states["b"] = states["b"], states["a"]
    steps(server, history, 3, 4)
    report = check(history, RUN)
    assert {(fault.session, fault.kind) for fault in report.faults} == {("a", Kind.WRONG), ("b", Kind.WRONG)}


def test_another_sessions_request_applied(history: History) -> None:
    history.refused(request("a", 3), "STEP_MISMATCH", 4 * STEPS)
    assert kinds(history) == {Kind.MIXED}


def test_a_reply_that_changed_on_retry(server: HashServer, history: History) -> None:
    server.replies["a", 2 * STEPS] = digest(b"something else")
    ask(server, history, request("a", 2))
    assert kinds(history) == {Kind.CHANGED, Kind.WRONG}


def test_a_reply_of_another_request(server: HashServer, history: History) -> None:
    server.replies["a", 2 * STEPS] = server.replies["a", STEPS]
    ask(server, history, request("a", 2))
    assert kinds(history) == {Kind.CHANGED, Kind.LOST}


def test_a_session_reset(server: HashServer, history: History) -> None:
    server.states["a"] = [b""]
    server.replies.clear()
    ask(server, history, request("a", 3))
    assert kinds(history) == {Kind.RESET}


def test_a_state_reset_whose_position_is_not(server: HashServer, history: History) -> None:
    server.states["a"][-1] = b""
    ask(server, history, request("a", 3))
    assert kinds(history) == {Kind.WRONG}


def test_a_session_that_begins_anew_unasked(history: History) -> None:
    history.answered(request("a", 3), STEPS, digest(inputs(request("a", 3))))
    assert kinds(history) == {Kind.RESET, Kind.WRONG}


def test_a_generation_that_began_otherwise(history: History) -> None:
    run = {**RUN, ("a", 3): Expected(4 * STEPS, RUN["a", 3].bits, tokens=(5, 6, 7))}
    history.add("a", Begun(request("a", 3), (5, 6)))
    assert check(history, run).faults == []
    history.add("a", Begun(request("a", 3), (5, 7)))
    assert set(check(history, run).counts) == {Kind.WRONG}


def test_a_request_never_answered(history: History) -> None:
    history.add("a", Unanswered(request("a", 3), "UNAVAILABLE"))
    assert kinds(history) == {Kind.UNANSWERED}


def test_a_request_applied_and_not_answered_again(history: History) -> None:
    history.refused(request("a", 3), "POSITION_MISMATCH", 4 * STEPS)
    assert kinds(history) == {Kind.UNANSWERED}


def lose_and_report(server: HashServer, history: History) -> Report:
    server.forget("b", reported=True)
    following = ask(server, history, request("b", 3))
    assert following == 2
    for index in range(following, REQUESTS):
        ask(server, history, request("b", index))
    history.add("b", Ended(REQUESTS * STEPS))
    return check(history, RUN, may_lose_seconds=1.0)


def test_a_loss_that_is_reported_and_allowed(server: HashServer, history: History) -> None:
    history.killed()
    report = lose_and_report(server, history)
    assert report.faults == []
    assert report.reported == STEPS
    assert set(check(history, RUN).counts) == {Kind.LOST}  # where nothing may be lost


def test_a_loss_of_what_was_acknowledged_too_long_ago(history: History) -> None:
    history.kills.append((time.monotonic() + 5.0, math.inf))
    history.add("b", Refused(request("b", 3), "STEPS_LOST", 2 * STEPS, time.monotonic() + 6.0))
    assert set(check(history, RUN, may_lose_seconds=1.0).counts) == {Kind.LOST}


def test_a_loss_is_that_of_the_first_kill_after_the_last_answer(history: History) -> None:
    history.killed()
    history.answered(request("b", 2), 3 * STEPS, RUN["b", 2].bits)  # on its way when the server was killed
    history.back()
    history.kills.append((time.monotonic() + 5.0, math.inf))
    history.add("b", Refused(request("b", 3), "STEPS_LOST", 2 * STEPS, time.monotonic() + 6.0))
    assert check(history, RUN, may_lose_seconds=1.0).faults == []


def test_a_loss_of_what_was_lost_before_and_made_anew_by_a_retry(
    server: HashServer, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    history.kills.append((now + 0.5, now + 4.0))
    server.forget("b", reported=True)
    monkeypatch.setattr(time, "monotonic", lambda: now + 5.0)
    ask(server, history, request("b", 2))
    history.kills.append((now + 5.5, math.inf))
    server.forget("b", reported=True)
    monkeypatch.setattr(time, "monotonic", lambda: now + 7.0)
    ask(server, history, request("b", 3))
    report = check(history, RUN, may_lose_seconds=1.0)
    assert report.faults == []
    assert report.longest == pytest.approx(0.5)


def test_a_loss_that_is_none(history: History) -> None:
    history.killed()
    history.refused(request("b", 3), "STEPS_LOST", 3 * STEPS)
    assert set(check(history, RUN, may_lose_seconds=1.0).counts) == {Kind.UNFOUNDED}
