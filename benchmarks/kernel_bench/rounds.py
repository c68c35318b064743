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
"""How long one measurement lasts, where a single call does not take longer: long against the clock and what
the previous contender left in the caches, short enough for many rounds."""

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


def seconds_of(contender: Contender, calls: int) -> float:
    """Seconds of one step, from a series of calls."""
    call = contender.call
    with contender.context():
        call()  # brings weights and code back into the caches after the contender before
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        end = time.perf_counter()
    return (end - begin) / (calls * contender.steps)


def calls_for(contender: Contender, seconds: float = SERIES_SECONDS) -> int:
    """Calls that last about `seconds`, at least one."""
    calls = 1
    while calls < MOST_CALLS:
        each = seconds_of(contender, calls) * contender.steps
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
                samples[index].append(seconds_of(contenders[index], calls[index]))
    finally:
        if collecting:
            gc.enable()
    return [Timing.of(taken) for taken in samples]
