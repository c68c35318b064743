"""The last part of a product's kernel: each thread turns the sums of one unit, row after row, into state.

What is known of a row is read while the row before it is finished, and of the first one earlier still:
reading takes several trips to memory, one after the other, and no load passes a store of which the compiler
cannot tell that it goes elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.finish import known_numbers, make_finish, make_look
from keepgate_kernels.cuda.gather import row_of
from keepgate_kernels.cuda.plan import HOISTED
from keepgate_kernels.cuda.sums import make_add_parts
from keepgate_kernels.cuda.target import at32, at64, device_function
from keepgate_kernels.cuda.tiles import UNITS, Shape, sum_groups


class Source(NamedTuple):
    """Where rows are, and what their sums start from.

    rows_at, inputs_at: words of the batch. first_row: the thread block's; first: of a group of rows; now: the
    step. start, start_stride: as in a plan.
    """

    rows_at: Any
    inputs_at: Any
    first_row: Any
    first: Any
    now: Any
    start: Any
    start_stride: Any


def make_meet(gates: int) -> Any:
    """meet(memory, outcome, source, batch, index, unit, known).

    Returns the row `index` of a thread block, and reads what is known of a unit of it: `finish.make_look`.
    """
    look = make_look(gates)

    @device_function
    def meet(memory: Any, outcome: Any, source: Any, batch: Any, index: Any, unit: Any, known: Any) -> Any:
        row = row_of(batch, source.rows_at, source.first_row + index, source.first, source.now)
        if outcome.kind != HOISTED:
            start = source.start + unit
            if source.start_stride != 0:
                start += source.start_stride * np.int64(batch[at64(source.inputs_at + row.given)])
            look(memory, outcome, row, unit, start, known, 0)
        return row

    return meet


def make_scatter(precision: str, gates: int, shape: Shape) -> Any:
    """scatter(memory, outcome, source, batch, rows, unit, row, known, numbers, sums_at, phases, scales,
    x_scales, h_scales).

    rows: how many of the thread block's there are. row, known: of the thread's first, see `make_meet`.
    numbers: shared memory, in which sums or parts lie from word sums_at on. phases: (whether there are parts
    of x, of h, the group that the first gate of h goes to). For parts in int8: scales of the rows of x, then
    of h; x_scales, h_scales: of the unit's columns, float32 [groups].
    """
    meet, finish = make_meet(gates), make_finish(precision, gates)
    groups, known_size = sum_groups(gates), known_numbers(gates)
    area, x_part = shape.group_words(gates), shape.x_part(gates)
    add_parts, in_parts = make_add_parts(precision, gates, shape, area), shape.split > 1
    units, stride = shape.blocks_across(gates) * UNITS, shape.sum_stride(gates)
    all_rows, threads = shape.rows, shape.threads
    down = threads // units
    turns = all_rows // down

    @device_function
    def scatter(
        memory: Any,
        outcome: Any,
        source: Any,
        batch: Any,
        rows: Any,
        unit: Any,
        row: Any,
        known: Any,
        numbers: Any,
        sums_at: Any,
        phases: Any,
        scales: Any,
        x_scales: Any,
        h_scales: Any,
    ) -> None:
        coming = cuda.local.array(known_size, types.float32)
        totals = cuda.local.array(groups, types.float32)
        thread = cuda.threadIdx.x & (threads - 1)
        has_x, has_h, shift = phases
        following = row
        for index in range(known_size):
            coming[index] = known[index]
        for index in range(thread // units, rows, down):
            row = following
            for number in range(known_size):
                known[number] = coming[number]
            if turns > 1 and index + down < rows:
                following = meet(memory, outcome, source, batch, index + down, unit, coming)
            own = sums_at + index * stride + thread % units
            for group in range(groups):
                totals[group] = np.float32(0)
                if not in_parts:
                    totals[group] = numbers[at32(own + group * units)]
            if in_parts and has_x:
                add_parts(numbers, own + x_part, 0, scales[at32(index)], x_scales, totals)
            if in_parts and has_h:
                scale = scales[at32(all_rows + index)]
                add_parts(numbers, own, shift, scale, h_scales, totals)
            if outcome.kind == HOISTED:
                place = outcome.work_base + outcome.work_stride * row.number + unit
                for group in range(groups):
                    memory.work[at64(place + group * outcome.width)] = totals[group]
            else:
                finish(memory, outcome, row, unit, known, 0, totals)

    return scatter
