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

from keepgate_kernels.cuda.finish import is_bad, known_numbers, make_finish, make_look
from keepgate_kernels.cuda.gather import row_of
from keepgate_kernels.cuda.places import kept_places, places_of
from keepgate_kernels.cuda.plan import HOISTED, LANE_OF, ROW_WORDS
from keepgate_kernels.cuda.ptx import WORD, load1, shared_address
from keepgate_kernels.cuda.sums import make_add_parts
from keepgate_kernels.cuda.target import at32, at64, device_function, int32
from keepgate_kernels.cuda.tiles import UNITS, Shape, sum_groups


class Rows(NamedTuple):
    """A thread block's. rows_at, inputs_at: words of the batch. first_row: its first; first: that of a group
    of rows; now: the step. count: how many of its rows there are, 0 for a thread whose unit is none."""

    rows_at: Any
    inputs_at: Any
    first_row: Any
    first: Any
    now: Any
    count: Any


@device_function
def places_in(batch: Any, rows: Any, outcome: Any, index: Any) -> Any:
    """The places of the row `index` of a thread block."""
    row = row_of(batch, rows.rows_at, rows.first_row + index, rows.first, rows.now)
    return places_of(outcome, batch, rows.inputs_at, row)


def make_meet(gates: int) -> Any:
    """meet(memory, outcome, kept, index, number, unit, known).

    Returns the places of the row `index` of a thread block, whose number that is, and reads what is known of
    a unit of it: see `finish.make_look`.
    """
    look = make_look(gates)

    @device_function
    def meet(memory: Any, outcome: Any, kept: Any, index: Any, number: Any, unit: Any, known: Any) -> Any:
        places = kept_places(kept, index, outcome, number)
        if outcome.kind != HOISTED:
            look(memory, outcome, places, unit, known, 0)
        return places

    return meet


def make_scatter(precision: str, gates: int, shape: Shape) -> Any:
    """scatter(memory, outcome, batch, rows, unit, kept, places, known, numbers, sums_at, phases, scales,
    x_scales, h_scales).

    kept: the places of all rows, see `places.keep_places`. places, known: of the thread's first row, if its
    unit is one: see `make_meet`. numbers: shared memory, in which sums or parts lie from word sums_at
    on. phases: (whether there are parts of x, of h, the group that the first gate of h goes to). For parts in
    int8: scales of the rows of x, then of h; x_scales, h_scales: of the unit's columns, float32 [groups].
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
        batch: Any,
        rows: Any,
        unit: Any,
        kept: Any,
        places: Any,
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
        number = rows.first_row - rows.first
        following = places
        for index in range(known_size):
            coming[index] = known[index]
        index, count = int32(thread // units), int32(rows.count)
        own = int32(sums_at + index * stride + thread % units)
        address = shared_address(numbers, own)
        while index < count:
            places = following
            for at in range(known_size):
                known[at] = coming[at]
            later = int32(index + down)
            if turns > 1 and later < count:
                following = meet(memory, outcome, kept, later, number + later, unit, coming)
            for group in range(groups):
                totals[group] = np.float32(0)
                if not in_parts:
                    totals[group] = load1(numbers, address + group * units * WORD)
            if in_parts and has_x:
                add_parts(numbers, own + x_part, 0, scales[at32(index)], x_scales, totals)
            if in_parts and has_h:
                add_parts(numbers, own, shift, scales[at32(all_rows + index)], h_scales, totals)
            if outcome.kind == HOISTED:
                for group in range(groups):
                    memory.work[at64(places.work + group * outcome.width + unit)] = totals[group]
            elif is_bad(outcome, finish(memory, outcome, places, unit, known, 0, totals)):
                row_at = rows.rows_at + (rows.first_row + index) * ROW_WORDS
                memory.work[at64(outcome.bad + batch[at64(row_at + LANE_OF)])] = np.float32(1)
            index, own = later, int32(own + down * stride)
            address = int32(address + down * stride * WORD)

    return scatter
