"""What becomes of a unit's sums: new state, a row for the next product, or numbers in `work`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keepgate_kernels.cuda.cells import clamp, coupled, gated, is_finite, shown, sigmoid_of, tanh_of
from keepgate_kernels.cuda.plan import (
    ABSENT,
    BAD,
    BY_ROW,
    CELL_BASE,
    CELL_STRIDE,
    FINAL,
    GRU,
    GRU_RESET,
    GRU_SECOND,
    HEAD,
    KIND,
    NEW,
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
from keepgate_kernels.cuda.target import device_function
from numba import cuda

_ZERO, _ONE = np.float32(0), np.float32(1)


class Row(NamedTuple):
    """A lane at a step. number: among the rows of the tick, or of those whose head is computed at a time.

    phase: the half of the state in use before the step; in the next bit, that after all of the lane's steps.
    given: the number of its input.
    """

    number: Any
    slot: Any
    lane: Any
    phase: Any
    given: Any


class Memory(NamedTuple):
    """Arrays of a network, 1-D: plan int64, of one product; values, state, work float32; operands."""

    plan: Any
    values: Any
    state: Any
    operands: Any
    work: Any


@device_function
def place_of(kind: Any, base: Any, half: Any, stride: Any, row: Any) -> Any:
    """Where what belongs to a row begins: see `plan.OLD` and on."""
    if kind == BY_ROW:
        return base + stride * row.number
    if kind == NEW:
        return base + half * (1 - (row.phase & 1)) + stride * row.slot
    if kind == FINAL:
        return base + half * (row.phase >> 1) + stride * row.slot
    return base + half * (row.phase & 1) + stride * row.slot


@device_function
def _old_h(memory: Any, row: Any, unit: Any) -> Any:
    plan = memory.plan
    half = plan[STATE_HALF] * (row.phase & 1)
    return memory.state[plan[STATE_BASE] + half + plan[STATE_STRIDE] * row.slot + unit]


def make_finish(precision: str, gates: int) -> Any:
    """finish(memory, row, unit, starts, start, apart, sums, at, groups_apart) for kinds with that many gates.

    starts: where the sums start from, that of the first group at `start`, the next `apart` on. sums: likewise
    the products, at `at`, groups_apart.
    """
    rounded = make_rounded(precision)

    @device_function
    def put_row(memory: Any, row: Any, unit: Any, h: Any) -> None:
        plan = memory.plan
        if plan[OUT_PLACE] != ABSENT:
            first = place_of(plan[OUT_PLACE], plan[OUT_BASE], plan[OUT_HALF], plan[OUT_STRIDE], row)
            memory.operands[first + unit] = rounded(h, LEVELS)

    @device_function
    def put(memory: Any, row: Any, unit: Any, h: Any) -> None:
        plan = memory.plan
        half = plan[STATE_HALF] * (1 - (row.phase & 1))
        memory.state[plan[STATE_BASE] + half + plan[STATE_STRIDE] * row.slot + unit] = h
        if plan[OUT_BOUNDED] == 0 and not is_finite(h):
            memory.work[plan[BAD] + row.lane] = _ONE
        put_row(memory, row, unit, h)

    @device_function
    def put_shown(memory: Any, row: Any, unit: Any, h: Any) -> None:
        """h of a cell with a cell state; what is yet to be projected is a row only."""
        if memory.plan[STATE_BASE] == ABSENT:
            put_row(memory, row, unit, h)
        else:
            put(memory, row, unit, h)

    @device_function
    def one(
        memory: Any, row: Any, unit: Any, starts: Any, start: Any, apart: Any, sums: Any, at: Any, step: Any
    ) -> None:
        """An RNN, the second product of a GRU, a projection or a head."""
        plan, work = memory.plan, memory.work
        kind = plan[KIND]
        total = starts[start] + sums[at]
        if kind == HEAD:
            work[plan[WORK_BASE] + plan[WORK_STRIDE] * row.number + unit] = total
            return
        if kind == RNN_TANH:
            total = tanh_of(total)
        elif kind == RNN_RELU:
            total = max(total, _ZERO)
        elif kind == GRU_SECOND:
            place = plan[WORK_BASE] + plan[WORK_STRIDE] * row.number + unit
            z, n = sigmoid_of(work[place]), tanh_of(work[place + plan[WIDTH]] + sums[at])
            total = cuda.fma(z, _old_h(memory, row, unit) - n, n)
        put(memory, row, unit, total)

    @device_function
    def three(
        memory: Any, row: Any, unit: Any, starts: Any, start: Any, apart: Any, sums: Any, at: Any, step: Any
    ) -> None:
        """A GRU, whose sums are n from x, r, z, n from h; or a CIFG's f, g, o."""
        plan = memory.plan
        kind = plan[KIND]
        first = starts[start] + sums[at]
        second = starts[start + apart] + sums[at + step]
        third = starts[start + 2 * apart] + sums[at + 2 * step]
        if kind == GRU:
            from_h = starts[start + 3 * apart] + sums[at + 3 * step]
            n = tanh_of(cuda.fma(sigmoid_of(second), from_h, first))
            put(memory, row, unit, cuda.fma(sigmoid_of(third), _old_h(memory, row, unit) - n, n))
        elif kind == GRU_RESET:
            place = plan[WORK_BASE] + plan[WORK_STRIDE] * row.number + unit
            memory.work[place], memory.work[place + plan[WIDTH]] = third, first
            put_row(memory, row, unit, sigmoid_of(second) * _old_h(memory, row, unit))
        else:
            values, options, width = memory.values, plan[OPTIONS], plan[WIDTH]
            place = plan[CELL_BASE] + plan[CELL_STRIDE] * row.slot + unit
            c = memory.state[place]
            if options != ABSENT:
                first = cuda.fma(values[options + unit], c, first)
            c = coupled(first, c, second)
            if options != ABSENT:
                c = clamp(c, values[options + 2 * width + unit])
                third = cuda.fma(values[options + width + unit], c, third)
            memory.state[place] = c
            put_shown(memory, row, unit, shown(third, c))

    @device_function
    def four(
        memory: Any, row: Any, unit: Any, starts: Any, start: Any, apart: Any, sums: Any, at: Any, step: Any
    ) -> None:
        """An LSTM: i, f, g, o."""
        plan, values = memory.plan, memory.values
        i = starts[start] + sums[at]
        f = starts[start + apart] + sums[at + step]
        g = starts[start + 2 * apart] + sums[at + 2 * step]
        o = starts[start + 3 * apart] + sums[at + 3 * step]
        options, width = plan[OPTIONS], plan[WIDTH]
        place = plan[CELL_BASE] + plan[CELL_STRIDE] * row.slot + unit
        c = memory.state[place]
        if options != ABSENT:
            i = cuda.fma(values[options + unit], c, i)
            f = cuda.fma(values[options + width + unit], c, f)
        c = gated(f, c, i, g)
        if options != ABSENT:
            c = clamp(c, values[options + 3 * width + unit])
            o = cuda.fma(values[options + 2 * width + unit], c, o)
        memory.state[place] = c
        put_shown(memory, row, unit, shown(o, c))

    return {1: one, 3: three, 4: four}[gates]
