"""What clients saw of their sessions while something went wrong: the evidence that `checker` judges."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from dataclasses import dataclass, field

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a session: the `index`-th of its script. It takes the session from `start` to `end`."""

    session: str
    index: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The server acknowledged a request. position: what it said; bits: digest of the answer.

    at: seconds of the monotonic clock.
    """

    asked: Asked
    position: int
    bits: bytes
    replayed: bool
    at: float


@dataclass(frozen=True, slots=True)
class Begun:
    """The first tokens of a generation whose end was cut off."""

    asked: Asked
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal that says something of the session. expected: the position that the server wants, if any."""

    asked: Asked
    reason: str
    expected: int | None
    at: float


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The client gave up. last: what it heard at last."""

    asked: Asked
    last: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Where the server said that the session was at the end."""

    position: int


Event = Answered | Begun | Refused | Unanswered | Ended


@dataclass
class History:
    """events: what happened to each session, in order. failures: what else calls ended with, by name.

    kills: when servers were killed, and when the next one was ready, in seconds of the monotonic clock. What
    a client hears in between comes from the one that was killed.
    """

    events: dict[str, list[Event]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    kills: list[tuple[float, float]] = field(default_factory=list)

    def add(self, session: str, event: Event) -> None:
        self.events.setdefault(session, []).append(event)

    def answered(self, asked: Asked, position: int, bits: bytes, *, replayed: bool = False) -> None:
        self.add(asked.session, Answered(asked, position, bits, replayed, time.monotonic()))

    def refused(self, asked: Asked, reason: str, expected: int | None = None) -> None:
        self.add(asked.session, Refused(asked, reason, expected, time.monotonic()))

    def killed(self) -> None:
        """A server is about to be killed."""
        self.kills.append((time.monotonic(), math.inf))

    def back(self) -> None:
        """The one that follows the last one killed is ready."""
        self.kills[-1] = (self.kills[-1][0], time.monotonic())

    def reached(self) -> dict[str, int]:
        """How many requests of each session's script were tried."""
        return {
            session: 1 + max((e.asked.index for e in events if not isinstance(e, Ended)), default=-1)
            for session, events in self.events.items()
        }


def digest(answer: bytes) -> bytes:
    """What stands for an answer's bits."""
    return hashlib.blake2b(answer, digest_size=DIGEST_BYTES).digest()
