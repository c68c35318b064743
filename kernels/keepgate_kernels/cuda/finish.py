"""What becomes of a unit's sums: new state, a row for the next product, or numbers in `work`."""

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


def make_finish(precision: str, gates: int) -> Any:
    """finish(memory, plan, row, unit, start, sums, at, step) for kinds with that many gates.

    plan: an `Outcome`. start: where in values the sums start from, that of the first group, the next a width
    on. sums: the products, the first group's at `at`, the next `step` on. Returns what it made: the new h, a
    gate times h, or a number of the head.
    """
    rounded = make_rounded(precision)

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
    def one(memory: Any, plan: Any, row: Any, unit: Any, start: Any, sums: Any, at: Any, step: Any) -> Any:
        """An RNN, the second product of a GRU, a projection or a head."""
        work = memory.work
        kind = plan.kind
        total = memory.values[at64(start)] + sums[at64(at)]
        if kind == HEAD:
            work[at64(plan.work_base + plan.work_stride * row.number + unit)] = total
            return total
        if kind == RNN_TANH:
            total = tanh_of(total)
        elif kind == RNN_RELU:
            total = max(total, _ZERO)
        elif kind == GRU_SECOND:
            place = plan.work_base + plan.work_stride * row.number + unit
            z, n = sigmoid_of(work[at64(place)]), tanh_of(work[at64(place + plan.width)] + sums[at64(at)])
            total = cuda.fma(z, _old_h(memory, plan, row, unit) - n, n)
        put(memory, plan, row, unit, total)
        return total

    @device_function
    def three(memory: Any, plan: Any, row: Any, unit: Any, start: Any, sums: Any, at: Any, step: Any) -> Any:
        """A GRU, whose sums are n from x, r, z, n from h; or a CIFG's f, g, o."""
        kind = plan.kind
        first = memory.values[at64(start)] + sums[at64(at)]
        second = memory.values[at64(start + plan.width)] + sums[at64(at + step)]
        third = memory.values[at64(start + 2 * plan.width)] + sums[at64(at + 2 * step)]
        if kind == GRU:
            from_h = memory.values[at64(start + 3 * plan.width)] + sums[at64(at + 3 * step)]
            n = tanh_of(cuda.fma(sigmoid_of(second), from_h, first))
            h = cuda.fma(sigmoid_of(third), _old_h(memory, plan, row, unit) - n, n)
            put(memory, plan, row, unit, h)
        elif kind == GRU_RESET:
            place = plan.work_base + plan.work_stride * row.number + unit
            memory.work[at64(place)], memory.work[at64(place + plan.width)] = third, first
            h = sigmoid_of(second) * _old_h(memory, plan, row, unit)
            put_row(memory, plan, row, unit, h)
        else:
            values, options, width = memory.values, plan.options, plan.width
            place = plan.cell_base + plan.cell_stride * row.slot + unit
            c = memory.state[at64(place)]
            if options != ABSENT:
                first = cuda.fma(values[at64(options + unit)], c, first)
            c = coupled(first, c, second)
            if options != ABSENT:
                c = clamp(c, values[at64(options + 2 * width + unit)])
                third = cuda.fma(values[at64(options + width + unit)], c, third)
            memory.state[at64(place)] = c
            h = shown(third, c)
            put_shown(memory, plan, row, unit, h)
        return h

    @device_function
    def four(memory: Any, plan: Any, row: Any, unit: Any, start: Any, sums: Any, at: Any, step: Any) -> Any:
        """An LSTM: i, f, g, o."""
        values = memory.values
        i = memory.values[at64(start)] + sums[at64(at)]
        f = memory.values[at64(start + plan.width)] + sums[at64(at + step)]
        g = memory.values[at64(start + 2 * plan.width)] + sums[at64(at + 2 * step)]
        o = memory.values[at64(start + 3 * plan.width)] + sums[at64(at + 3 * step)]
        options, width = plan.options, plan.width
        place = plan.cell_base + plan.cell_stride * row.slot + unit
        c = memory.state[at64(place)]
        if options != ABSENT:
            i = cuda.fma(values[at64(options + unit)], c, i)
            f = cuda.fma(values[at64(options + width + unit)], c, f)
        c = gated(f, c, i, g)
        if options != ABSENT:
            c = clamp(c, values[at64(options + 3 * width + unit)])
            o = cuda.fma(values[at64(options + 2 * width + unit)], c, o)
        memory.state[at64(place)] = c
        h = shown(o, c)
        put_shown(memory, plan, row, unit, h)
        return h

    return {1: one, 3: three, 4: four}[gates]
