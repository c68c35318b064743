"""Where what belongs to a row lies, computed once a row: its units are many, and offsets are 64 bits wide."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from keepgate_kernels.cuda.gather import place_of
from keepgate_kernels.cuda.plan import (
    ABSENT,
    BAD,
    CELL_BASE,
    CELL_STRIDE,
    GRU,
    GRU_RESET,
    GRU_SECOND,
    KIND,
    OPTIONS,
    OUT_BASE,
    OUT_BOUNDED,
    OUT_HALF,
    OUT_PLACE,
    OUT_STRIDE,
    START,
    START_STRIDE,
    STATE_BASE,
    STATE_HALF,
    STATE_STRIDE,
    WIDTH,
    WORK_BASE,
    WORK_STRIDE,
)
from keepgate_kernels.cuda.ptx import plus_product
from keepgate_kernels.cuda.target import at32, at64, device_function, int32
from keepgate_kernels.cuda.tiles import KEPT


class Outcome(NamedTuple):
    """What a plan says of what becomes of sums, read once: a store might change the plan, for all that the
    compiler knows."""

    kind: Any
    start: Any
    start_stride: Any
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
    """The outcome of a plan's product."""
    return Outcome(
        int32(plan[KIND]),
        plan[START],
        plan[START_STRIDE],
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


class Places(NamedTuple):
    """Of a row. start: what its sums start from, in values. had, made: in state, h or c before the step, and
    h after it, or ABSENT. out: the row that the next product reads, in operands, or ABSENT. work: its sums
    there."""

    start: Any
    had: Any
    made: Any
    out: Any
    work: Any


@device_function
def places_of(outcome: Any, batch: Any, inputs_at: Any, row: Any) -> Any:
    """The places of a row."""
    start = outcome.start
    if outcome.start_stride != 0:
        start = plus_product(start, outcome.start_stride, batch[at64(inputs_at + row.given)])
    before = plus_product(outcome.state_base, outcome.state_stride, row.slot)
    made = before + outcome.state_half
    if row.phase & 1:
        before, made = made, before
    had = plus_product(outcome.cell_base, outcome.cell_stride, row.slot)
    kind = outcome.kind
    if kind == GRU or kind == GRU_RESET or kind == GRU_SECOND:  # noqa: PLR1714, SIM109  # Numba makes a loop of `in`
        had = before
    if outcome.state_base == ABSENT:
        made = np.int64(ABSENT)
    out = np.int64(ABSENT)
    if outcome.out_place != ABSENT:
        out = place_of(outcome.out_place, outcome.out_base, outcome.out_half, outcome.out_stride, row)
    return Places(start, had, made, out, work_place(outcome, row.number))


@device_function
def work_place(outcome: Any, number: Any) -> Any:
    """Where the sums of a row of that number begin."""
    return plus_product(outcome.work_base, outcome.work_stride, number)


@device_function
def keep_places(kept: Any, index: Any, places: Any) -> None:
    """Write those of the row `index` into int64 [rows * KEPT]; where its sums are follows from its number."""
    at = index * KEPT
    kept[at32(at)], kept[at32(at + 1)] = places.start, places.had
    kept[at32(at + 2)], kept[at32(at + 3)] = places.made, places.out


@device_function
def kept_places(kept: Any, index: Any, outcome: Any, number: Any) -> Any:
    """Read those of the row `index`, whose number that is."""
    at = index * KEPT
    start, had, made = kept[at32(at)], kept[at32(at + 1)], kept[at32(at + 2)]
    return Places(start, had, made, kept[at32(at + 3)], work_place(outcome, number))
