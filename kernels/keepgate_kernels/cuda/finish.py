"""What becomes of a unit's sums: new state, a row for the next product, or numbers in `work`.

What is known of a unit before its sums are, what they start from and the state that it had, is read apart
from what follows: a kernel has memory look for it while it still multiplies, or finishes another unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.cells import clamp, coupled, gated, is_finite, shown, sigmoid_of, tanh_of
from keepgate_kernels.cuda.plan import ABSENT, GRU, GRU_RESET, GRU_SECOND, HEAD, RNN_RELU, RNN_TANH
from keepgate_kernels.cuda.rounding import LEVELS, make_rounded
from keepgate_kernels.cuda.target import at64, device_function
from keepgate_kernels.cuda.tiles import sum_groups

_ZERO = np.float32(0)


class Memory(NamedTuple):
    """Arrays of a network, 1-D: values, state, work float32; operands."""

    values: Any
    state: Any
    operands: Any
    work: Any


@device_function
def is_bad(outcome: Any, h: Any) -> Any:
    """Whether a product has made a state that is not finite, which those that are bounded never do."""
    return outcome.state_base != ABSENT and outcome.out_bounded == 0 and not is_finite(h)


def known_numbers(gates: int) -> int:
    """How many float32 are known of a unit: what each group of sums starts from, then h or c as it was, and,
    of the second product of a GRU, two sums of the first."""
    return sum_groups(gates) + (3 if gates == 1 else 1)


def make_look(gates: int) -> Any:
    """look(memory, outcome, places, unit, known, at): read what is known of a row's unit into known[at:]."""
    groups = sum_groups(gates)
    had, of_reset, of_x = groups, groups + 1, groups + 2

    @device_function
    def one(memory: Any, outcome: Any, places: Any, unit: Any, known: Any, at: Any) -> None:
        if outcome.kind == GRU_SECOND:
            known[at + had] = memory.state[at64(places.had + unit)]
            known[at + of_reset] = memory.work[at64(places.work + unit)]
            known[at + of_x] = memory.work[at64(places.work + outcome.width + unit)]
        else:
            known[at] = memory.values[at64(places.start + unit)]

    @device_function
    def several(memory: Any, outcome: Any, places: Any, unit: Any, known: Any, at: Any) -> None:
        for group in range(gates):
            known[at + group] = memory.values[at64(places.start + group * outcome.width + unit)]
        if gates == 3 and outcome.kind == GRU:
            known[at + gates] = memory.values[at64(places.start + gates * outcome.width + unit)]
        known[at + had] = memory.state[at64(places.had + unit)]

    return one if gates == 1 else several


def make_finish(precision: str, gates: int) -> Any:
    """finish(memory, outcome, places, unit, known, at, sums) for kinds with that many gates.

    known: from `at` on, see `make_look`. sums: of the products, float32 [groups]. Returns what it made: the
    new h, a gate times h, or a number of the head.
    """
    rounded, groups = make_rounded(precision), sum_groups(gates)
    had, of_reset, of_x = groups, groups + 1, groups + 2

    @device_function
    def put(memory: Any, places: Any, unit: Any, h: Any) -> None:
        """h as state, unless it is yet to be projected or multiplied, and as a row for the next product."""
        if places.made != ABSENT:
            memory.state[at64(places.made + unit)] = h
        if places.out != ABSENT:
            memory.operands[at64(places.out + unit)] = rounded(h, LEVELS)

    @device_function
    def one(memory: Any, outcome: Any, places: Any, unit: Any, known: Any, at: Any, sums: Any) -> Any:
        """An RNN, the second product of a GRU, a projection or a head."""
        kind = outcome.kind
        total = known[at] + sums[0]
        if kind == HEAD:
            memory.work[at64(places.work + unit)] = total
            return total
        if kind == RNN_TANH:
            total = tanh_of(total)
        elif kind == RNN_RELU:
            total = max(total, _ZERO)
        elif kind == GRU_SECOND:
            z, n = sigmoid_of(known[at + of_reset]), tanh_of(known[at + of_x] + sums[0])
            total = cuda.fma(z, known[at + had] - n, n)
        put(memory, places, unit, total)
        return total

    @device_function
    def three(memory: Any, outcome: Any, places: Any, unit: Any, known: Any, at: Any, sums: Any) -> Any:
        """A GRU, whose sums are n from x, r, z, n from h; or a CIFG's f, g, o."""
        kind = outcome.kind
        first, second, third = known[at] + sums[0], known[at + 1] + sums[1], known[at + 2] + sums[2]
        if kind == GRU:
            n = tanh_of(cuda.fma(sigmoid_of(second), known[at + 3] + sums[3], first))
            h = cuda.fma(sigmoid_of(third), known[at + had] - n, n)
            put(memory, places, unit, h)
        elif kind == GRU_RESET:
            place = places.work + unit
            memory.work[at64(place)], memory.work[at64(place + outcome.width)] = third, first
            h = sigmoid_of(second) * known[at + had]
            memory.operands[at64(places.out + unit)] = rounded(h, LEVELS)
        else:
            values, options, width, c = memory.values, outcome.options, outcome.width, known[at + had]
            if options != ABSENT:
                first = cuda.fma(values[at64(options + unit)], c, first)
            c = coupled(first, c, second)
            if options != ABSENT:
                c = clamp(c, values[at64(options + 2 * width + unit)])
                third = cuda.fma(values[at64(options + width + unit)], c, third)
            memory.state[at64(places.had + unit)] = c
            h = shown(third, c)
            put(memory, places, unit, h)
        return h

    @device_function
    def four(memory: Any, outcome: Any, places: Any, unit: Any, known: Any, at: Any, sums: Any) -> Any:
        """An LSTM: i, f, g, o."""
        values, options, width, c = memory.values, outcome.options, outcome.width, known[at + had]
        i, f = known[at] + sums[0], known[at + 1] + sums[1]
        g, o = known[at + 2] + sums[2], known[at + 3] + sums[3]
        if options != ABSENT:
            i = cuda.fma(values[at64(options + unit)], c, i)
            f = cuda.fma(values[at64(options + width + unit)], c, f)
        c = gated(f, c, i, g)
        if options != ABSENT:
            c = clamp(c, values[at64(options + 3 * width + unit)])
            o = cuda.fma(values[at64(options + 2 * width + unit)], c, o)
        memory.state[at64(places.had + unit)] = c
        h = shown(o, c)
        put(memory, places, unit, h)
        return h

    return {1: one, 3: three, 4: four}[gates]
