"""What becomes of a unit's sums: new state, a row for the next product, or numbers in `work`.

What is known of a unit before its sums are, what they start from and the state that it had, is read apart
from what follows: a kernel has memory look for it while it still multiplies, or finishes another unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.cells import clamp, coupled, gated, is_finite, shown, sigmoid_of, tanh_of
from keepgate_kernels.cuda.gather import place_of
from keepgate_kernels.cuda.plan import (
    ABSENT,
    BAD,
    CELL_BASE,
    CELL_STRIDE,
    GRU,
    GRU_RESET,
    GRU_SECOND,
    HEAD,
    KIND,
    OPTIONS,
    OUT_BASE,
    OUT_BOUNDED,
    OUT_HALF,
    OUT_PLACE,
    OUT_STRIDE,
    RNN_RELU,
    RNN_TANH,
    STATE_BASE,
    STATE_HALF,
    STATE_STRIDE,
    WIDTH,
    WORK_BASE,
    WORK_STRIDE,
)
from keepgate_kernels.cuda.rounding import LEVELS, make_rounded
from keepgate_kernels.cuda.target import at64, device_function
from keepgate_kernels.cuda.tiles import sum_groups

_ZERO, _ONE = np.float32(0), np.float32(1)


class Memory(NamedTuple):
    """Arrays of a network, 1-D: values, state, work float32; operands."""

    values: Any
    state: Any
    operands: Any
    work: Any


class Outcome(NamedTuple):
    """What a plan says of it, read once: a store might change the plan, for all that the compiler knows."""

    kind: Any
    options: Any
    state_base: Any
    state_half: Any
    state_stride: Any
    cell_base: Any
    cell_stride: Any
    out_place: Any
    out_base: Any
    out_half: Any
    out_stride: Any
    out_bounded: Any
    work_base: Any
    work_stride: Any
    bad: Any
    width: Any


@device_function
def outcome_of(plan: Any) -> Any:
    """What a plan says of what becomes of sums."""
    return Outcome(
        plan[KIND],
        plan[OPTIONS],
        plan[STATE_BASE],
        plan[STATE_HALF],
        plan[STATE_STRIDE],
        plan[CELL_BASE],
        plan[CELL_STRIDE],
        plan[OUT_PLACE],
        plan[OUT_BASE],
        plan[OUT_HALF],
        plan[OUT_STRIDE],
        plan[OUT_BOUNDED],
        plan[WORK_BASE],
        plan[WORK_STRIDE],
        plan[BAD],
        plan[WIDTH],
    )


@device_function
def made_place(plan: Any, row: Any) -> Any:
    """Where the row that the next product reads begins."""
    return place_of(plan.out_place, plan.out_base, plan.out_half, plan.out_stride, row)


@device_function
def _old_h(memory: Any, plan: Any, row: Any, unit: Any) -> Any:
    half = plan.state_half * (row.phase & 1)
    return memory.state[at64(plan.state_base + half + plan.state_stride * row.slot + unit)]


@device_function
def _cell_place(plan: Any, row: Any, unit: Any) -> Any:
    return at64(plan.cell_base + plan.cell_stride * row.slot + unit)


def known_numbers(gates: int) -> int:
    """How many float32 are known of a unit: what each group of sums starts from, then h or c as it was, and,
    of the second product of a GRU, two sums of the first."""
    return sum_groups(gates) + (3 if gates == 1 else 1)


def make_look(gates: int) -> Any:
    """look(memory, plan, row, unit, start, known, at): read what is known into known[at:], float32.

    plan: an `Outcome`. start: where in values the sums start from, that of the first group, the next a width
    on.
    """
    groups = sum_groups(gates)
    had, of_reset, of_x = groups, groups + 1, groups + 2

    @device_function
    def one(memory: Any, plan: Any, row: Any, unit: Any, start: Any, known: Any, at: Any) -> None:
        if plan.kind == GRU_SECOND:
            place = plan.work_base + plan.work_stride * row.number + unit
            known[at + had] = _old_h(memory, plan, row, unit)
            known[at + of_reset] = memory.work[at64(place)]
            known[at + of_x] = memory.work[at64(place + plan.width)]
        else:
            known[at] = memory.values[at64(start)]

    @device_function
    def several(memory: Any, plan: Any, row: Any, unit: Any, start: Any, known: Any, at: Any) -> None:
        for group in range(gates):
            known[at + group] = memory.values[at64(start + group * plan.width)]
        if gates == 3 and plan.kind == GRU:
            known[at + gates] = memory.values[at64(start + gates * plan.width)]
        if gates == 3 and plan.kind in (GRU, GRU_RESET):
            known[at + had] = _old_h(memory, plan, row, unit)
        else:
            known[at + had] = memory.state[_cell_place(plan, row, unit)]

    return one if gates == 1 else several


def make_finish(precision: str, gates: int) -> Any:
    """finish(memory, plan, row, unit, known, at, sums) for kinds with that many gates.

    plan: an `Outcome`. known: from `at` on, see `make_look`. sums: of the products, float32 [groups].
    Returns what it made: the new h, a gate times h, or a number of the head.
    """
    rounded, groups = make_rounded(precision), sum_groups(gates)
    had, of_reset, of_x = groups, groups + 1, groups + 2

    @device_function
    def put_row(memory: Any, plan: Any, row: Any, unit: Any, h: Any) -> None:
        if plan.out_place != ABSENT:
            memory.operands[at64(made_place(plan, row) + unit)] = rounded(h, LEVELS)

    @device_function
    def put(memory: Any, plan: Any, row: Any, unit: Any, h: Any) -> None:
        half = plan.state_half * (1 - (row.phase & 1))
        memory.state[at64(plan.state_base + half + plan.state_stride * row.slot + unit)] = h
        if plan.out_bounded == 0 and not is_finite(h):
            memory.work[at64(plan.bad + row.lane)] = _ONE
        put_row(memory, plan, row, unit, h)

    @device_function
    def put_shown(memory: Any, plan: Any, row: Any, unit: Any, h: Any) -> None:
        """h of a cell with a cell state; what is yet to be projected is a row only."""
        if plan.state_base == ABSENT:
            put_row(memory, plan, row, unit, h)
        else:
            put(memory, plan, row, unit, h)

    @device_function
    def one(memory: Any, plan: Any, row: Any, unit: Any, known: Any, at: Any, sums: Any) -> Any:
        """An RNN, the second product of a GRU, a projection or a head."""
        kind = plan.kind
        total = known[at] + sums[0]
        if kind == HEAD:
            memory.work[at64(plan.work_base + plan.work_stride * row.number + unit)] = total
            return total
        if kind == RNN_TANH:
            total = tanh_of(total)
        elif kind == RNN_RELU:
            total = max(total, _ZERO)
        elif kind == GRU_SECOND:
            z, n = sigmoid_of(known[at + of_reset]), tanh_of(known[at + of_x] + sums[0])
            total = cuda.fma(z, known[at + had] - n, n)
        put(memory, plan, row, unit, total)
        return total

    @device_function
    def three(memory: Any, plan: Any, row: Any, unit: Any, known: Any, at: Any, sums: Any) -> Any:
        """A GRU, whose sums are n from x, r, z, n from h; or a CIFG's f, g, o."""
        kind = plan.kind
        first, second, third = known[at] + sums[0], known[at + 1] + sums[1], known[at + 2] + sums[2]
        if kind == GRU:
            n = tanh_of(cuda.fma(sigmoid_of(second), known[at + 3] + sums[3], first))
            h = cuda.fma(sigmoid_of(third), known[at + had] - n, n)
            put(memory, plan, row, unit, h)
        elif kind == GRU_RESET:
            place = plan.work_base + plan.work_stride * row.number + unit
            memory.work[at64(place)], memory.work[at64(place + plan.width)] = third, first
            h = sigmoid_of(second) * known[at + had]
            put_row(memory, plan, row, unit, h)
        else:
            values, options, width, c = memory.values, plan.options, plan.width, known[at + had]
            if options != ABSENT:
                first = cuda.fma(values[at64(options + unit)], c, first)
            c = coupled(first, c, second)
            if options != ABSENT:
                c = clamp(c, values[at64(options + 2 * width + unit)])
                third = cuda.fma(values[at64(options + width + unit)], c, third)
            memory.state[_cell_place(plan, row, unit)] = c
            h = shown(third, c)
            put_shown(memory, plan, row, unit, h)
        return h

    @device_function
    def four(memory: Any, plan: Any, row: Any, unit: Any, known: Any, at: Any, sums: Any) -> Any:
        """An LSTM: i, f, g, o."""
        values, options, width, c = memory.values, plan.options, plan.width, known[at + had]
        i, f, g, o = (
            known[at] + sums[0],
            known[at + 1] + sums[1],
            known[at + 2] + sums[2],
            known[at + 3] + sums[3],
        )
        if options != ABSENT:
            i = cuda.fma(values[at64(options + unit)], c, i)
            f = cuda.fma(values[at64(options + width + unit)], c, f)
        c = gated(f, c, i, g)
        if options != ABSENT:
            c = clamp(c, values[at64(options + 3 * width + unit)])
            o = cuda.fma(values[at64(options + 2 * width + unit)], c, o)
        memory.state[_cell_place(plan, row, unit)] = c
        h = shown(o, c)
        put_shown(memory, plan, row, unit, h)
        return h

    return {1: one, 3: three, 4: four}[gates]
