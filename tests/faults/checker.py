"""The judge: compares what clients saw with an uninterrupted run of the same requests, bit by bit.

It follows each session through its history and knows at every moment which position was acknowledged. What
the server says later must agree with it: an answer has the bits of the uninterrupted run however often it is
asked for, the position never moves but by requests, and what is lost was reported and was allowed to be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from faults.history import Answered, Asked, Begun, Ended, Event, History, Refused, Unanswered

STEPS_LOST = "STEPS_LOST"
POSITION_MISMATCH = "POSITION_MISMATCH"
STEP_MISMATCH = "STEP_MISMATCH"
SHOWN = 20


class Kind(StrEnum):
    """What can have gone wrong."""

    LOST = "an acknowledged step was lost"
    TWICE = "a step was applied twice"
    MIXED = "sessions were mixed up"
    CHANGED = "a reply changed on retry"
    RESET = "a session was reset without a word"
    WRONG = "an answer differs from the uninterrupted run's"
    UNANSWERED = "a request was never answered"
    UNFOUNDED = "a loss was reported that was none"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the uninterrupted run answered to one request. tokens: what it generated, if it did."""

    position: int
    bits: bytes
    tokens: tuple[int, ...] = ()


Run = Mapping[tuple[str, int], Expected]
"""Session and index of the request to its answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that went wrong, at a position of a session."""

    kind: Kind
    session: str
    position: int
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: session {self.session} at {self.position}: {self.text}"


@dataclass
class Report:
    """answers: acknowledged requests. steps: those they applied. replays: answers said to be given before.

    reported: acknowledged steps that the server said were lost, and might. longest: seconds between the
    acknowledgement of such a step and the kill that it was lost to, at most.
    """

    answers: int = 0
    steps: int = 0
    replays: int = 0
    reported: int = 0
    longest: float = 0.0
    faults: list[Fault] = field(default_factory=list)

    @property
    def counts(self) -> Counter[Kind]:
        return Counter(fault.kind for fault in self.faults)

    def __str__(self) -> str:
        figures = (
            f"{self.answers} answers, {self.steps} steps, {self.replays} replayed, "
            f"{self.reported} lost and reported (at most {self.longest:.2f} s before the kill)"
        )
        shown = [str(fault) for fault in self.faults[:SHOWN]]
        return "\n".join([figures, f"{len(self.faults)} faults", *shown])


def check(history: History, run: Run, *, may_lose_seconds: float | None = None) -> Report:
    """Judge a history.

    may_lose_seconds: how long before a kill a step may have been acknowledged that is lost with a report;
    None if none may be lost.
    """
    report = Report()
    owners = {expected.bits: key for key, expected in run.items()}
    for session, events in history.events.items():
        _Session(session, run, owners, history.kills, may_lose_seconds, report).follow(events)
    return report


class _Session:
    """The judgement of one session. acknowledged: the position that the client was last told of."""

    def __init__(
        self,
        session: str,
        run: Run,
        owners: Mapping[bytes, tuple[str, int]],
        kills: list[tuple[float, float]],
        may_lose_seconds: float | None,
        report: Report,
    ) -> None:
        self.session = session
        self.run = run
        self.owners = owners
        self.kills = kills
        self.may_lose_seconds = may_lose_seconds
        self.report = report
        self.acknowledged = 0
        self.asked_up_to = 0
        self.last_answer = 0.0
        self.acks: dict[int, float] = {}  # end of a request to when its steps were acknowledged, once made
        self.seen: dict[int, bytes] = {}

    def follow(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Ended):
                self._ended(event)
                continue
            self.asked_up_to = max(self.asked_up_to, event.asked.end)
            if isinstance(event, Answered):
                self._answered(event)
            elif isinstance(event, Begun):
                self._begun(event)
            elif isinstance(event, Refused):
                self._refused(event)
            else:
                self._unanswered(event)

    def _fault(self, kind: Kind, position: int, text: str) -> None:
        self.report.faults.append(Fault(kind, self.session, position, text))

    def _answered(self, event: Answered) -> None:
        asked = event.asked
        self.report.answers += 1
        self.report.replays += event.replayed
        if asked.end >= self.acknowledged:
            self.last_answer = event.at
        if asked.end > self.acknowledged:
            self.report.steps += asked.end - max(asked.start, self.acknowledged)
            self.acknowledged = asked.end
            self.acks[asked.end] = event.at
        elif not event.replayed:  # a kill had lost its steps, and this very request made them anew
            self.acks[asked.end] = event.at
        if event.position != asked.end:
            kind = Kind.TWICE if event.position > asked.end else Kind.RESET
            self._fault(kind, asked.start, f"got position {event.position}, expected {asked.end}")
        before = self.seen.setdefault(asked.index, event.bits)
        if before != event.bits:
            self._fault(Kind.CHANGED, asked.start, "the same request was answered with other bits before")
        expected = self.run[self.session, asked.index]
        if expected.bits == event.bits:
            return
        owner = self.owners.get(event.bits)
        if owner is None:
            self._fault(Kind.WRONG, asked.start, "the bits are nobody's")
        elif owner[0] != self.session:
            self._fault(Kind.MIXED, asked.start, f"the bits are those of session {owner[0]}")
        else:
            kind = Kind.TWICE if owner[1] > asked.index else Kind.LOST
            self._fault(kind, asked.start, f"the bits are those of request {owner[1]}, not {asked.index}")

    def _begun(self, event: Begun) -> None:
        expected = self.run[self.session, event.asked.index].tokens
        if expected[: len(event.tokens)] != event.tokens:
            text = f"a generation began with {event.tokens}, expected {expected}"
            self._fault(Kind.WRONG, event.asked.start, text)

    def _refused(self, event: Refused) -> None:
        asked, expected = event.asked, event.expected
        if event.reason == STEPS_LOST and expected is not None:
            self._steps_lost(event, expected)
        elif event.reason == POSITION_MISMATCH and expected is not None:
            self._mismatch(asked, expected)
        elif event.reason == STEP_MISMATCH:
            self._fault(Kind.MIXED, asked.start, "another request was applied there")
        else:
            self._fault(Kind.LOST, asked.start, f"the session is gone: {event.reason}")

    def _steps_lost(self, event: Refused, expected: int) -> None:
        lost = self.acknowledged - expected
        if lost <= 0:
            self._fault(
                Kind.UNFOUNDED,
                event.asked.start,
                f"up to {self.acknowledged} nothing is lost, got {expected}",
            )
            return
        since = self._lost_seconds(expected, event.at)
        if self.may_lose_seconds is None or since > self.may_lose_seconds:
            self._fault(
                Kind.LOST, expected, f"{lost} steps, acknowledged up to {since:.2f} s before the kill"
            )
        else:
            self.report.reported += lost
            self.report.longest = max(self.report.longest, since)
        self.acknowledged = expected
        self.acks = {end: at for end, at in self.acks.items() if end <= expected}

    def _lost_seconds(self, expected: int, at: float) -> float:
        """How long before the kill the first of the steps that were lost was acknowledged.

        It was the first kill after the last answer from a server that knew them all.
        """
        first = min(when for end, when in self.acks.items() if end > expected)
        kill = min((kill for kill, back in self.kills if back > self.last_answer), default=at)
        return max(0.0, kill - first)

    def _mismatch(self, asked: Asked, expected: int) -> None:
        text = f"got position {expected}, acknowledged {self.acknowledged}"
        if expected == 0 and self.acknowledged:
            self._fault(Kind.RESET, asked.start, text)
        elif expected < self.acknowledged:
            self._fault(Kind.LOST, asked.start, text)
        elif expected > self.asked_up_to:
            self._fault(Kind.TWICE, asked.start, text)
        else:
            self._fault(Kind.UNANSWERED, asked.start, f"applied, but not answered again: {text}")

    def _unanswered(self, event: Unanswered) -> None:
        self._fault(Kind.UNANSWERED, event.asked.start, f"at last: {event.last}")

    def _ended(self, event: Ended) -> None:
        if event.position == self.acknowledged:
            return
        kind = Kind.TWICE if event.position > self.acknowledged else Kind.LOST
        text = f"got position {event.position} at the end, expected {self.acknowledged}"
        self._fault(kind, event.position, text)
