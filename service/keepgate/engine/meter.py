"""What one model version has done since it was loaded: counters that protocols and metrics read. Pure.

Written and read on the event loop. A request here is a job: one Step, Score or prompt, or one token that a
generation feeds back; replays of a session's history count as nothing.
"""

from __future__ import annotations

import bisect
import itertools

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sessions in a batch, at most, of each bucket but the last."""
SECONDS_BOUNDS = (
    1e-4,
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""Seconds, at most, of each bucket but the last."""


class Histogram:
    """counts[i] of the values were at most bounds[i] and more than the bound before; the last has the
    rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """How many values were at most each bound, and last how many there were."""
        return list(itertools.accumulate(self.counts))


class Meter:
    """taken: requests that came; each ends as one of the next two, or is in work. succeeded, failed: requests
    that were computed, or ended by an error in computing. inputs: those that were applied. batches: by the
    number of their sessions. queued: seconds that requests waited for their first batch, in all. computing:
    seconds of all batches; shared: the same, each batch once for every request in it. answered: seconds from
    a request's submission to its answer. last: time of day of the last answer, in seconds since 1970; 0
    before any.
    """

    __slots__ = (
        "answered",
        "batches",
        "computing",
        "failed",
        "inputs",
        "last",
        "queued",
        "shared",
        "succeeded",
        "taken",
    )

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.taken = 0
        self.inputs = 0
        self.queued = 0.0
        self.computing = 0.0
        self.shared = 0.0
        self.last = 0.0
        self.batches = Histogram(BATCH_BOUNDS)
        self.answered = Histogram(SECONDS_BOUNDS)
