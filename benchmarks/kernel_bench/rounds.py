"""Timing: contenders of a case take turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernel_bench.problem import Contender

SERIES_SECONDS = 0.006
"""How long one measurement lasts, where a single call does not take longer: long against the clock, short
enough for many rounds."""
WARM_SECONDS = 0.008
"""How long a contender runs before it is measured, at least once: weights of tens of MiB come back into the
caches, which had the contender before, only after some passes."""

UNDISTURBED = 0.98
"""Share of a processor from which on a series counts as undisturbed."""
ATTEMPTS = 4
RETRY_SECONDS = 0.1
"""How often, and for how long, a disturbed series is repeated."""

QUALIFYING_SERIES = 5
MOST_CALLS = 1 << 20


@dataclass(frozen=True)
class Timing:
    """Microseconds of one step over the rounds: the median and the quartiles."""

    median_us: float
    lower_us: float
    upper_us: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        lower, middle, upper = np.percentile(np.array(seconds) * 1e6, [25, 50, 75])
        return cls(float(middle), float(lower), float(upper), len(seconds))


def series(contender: Contender, calls: int) -> tuple[float, float]:
    """Seconds of one step from a series of calls, and the share of the time that the process was running."""
    call = contender.call
    with contender.context():
        warm = time.perf_counter() + WARM_SECONDS
        call()
        while time.perf_counter() < warm:
            call()
        busy, begin = time.process_time(), time.perf_counter()
        for _ in range(calls):
            call()
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    return seconds / (calls * contender.steps), busy / seconds


def undisturbed(contender: Contender, calls: int) -> float:
    """Seconds of one step, from a series in which no other process took the processor, if there is one."""
    attempts: list[tuple[float, float]] = []
    deadline = time.perf_counter() + RETRY_SECONDS
    while len(attempts) < ATTEMPTS and time.perf_counter() < deadline:
        seconds, share = series(contender, calls)
        if share >= UNDISTURBED:
            return seconds
        attempts.append((share, seconds))
    return max(attempts)[1]


def calls_for(contender: Contender, seconds: float = SERIES_SECONDS) -> int:
    """Calls that last about `seconds`, at least one."""
    calls = 1
    while calls < MOST_CALLS:
        each = series(contender, calls)[0] * contender.steps
        if each * calls > seconds / 4:
            return max(1, round(seconds / each))
        calls *= 4
    return calls


def fastest(variants: Sequence[Contender]) -> Contender:
    """The variant with the least median over a few alternating series: only it is measured further."""
    if len(variants) == 1:
        return variants[0]
    timings = alternate(variants, QUALIFYING_SERIES)
    return min(zip(variants, timings, strict=True), key=lambda pair: pair[1].median_us)[0]


def alternate(contenders: Sequence[Contender], rounds: int) -> list[Timing]:
    """Time every contender once a round, in an order drawn anew for each round."""
    calls = [calls_for(contender) for contender in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for index in order:
                samples[index].append(undisturbed(contenders[index], calls[index]))
    finally:
        if collecting:
            gc.enable()
    return [Timing.of(taken) for taken in samples]
