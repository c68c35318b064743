"""The rows of a tick, and where what belongs to a row lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from keepgate_kernels.cuda.plan import BY_ROW, FINAL, FIRST_INPUT, LANE_OF, NEW, ROW_WORDS, SLOT, STEPS
from keepgate_kernels.cuda.ptx import plus_product
from keepgate_kernels.cuda.target import at64, device_function


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


@device_function
def row_of(batch: Any, rows_at: Any, index: Any, first: Any, step: Any) -> Any:
    """The row `index` of a tick, which is number index - first of a group of them.

    rows_at: batch[ROWS_AT].
    """
    at = at64(rows_at + index * ROW_WORDS)
    steps = batch[at + at64(STEPS)]
    before = steps & 1
    phase = ((before + step) & 1) | (((before + (steps >> 1)) & 1) << 1)
    return Row(
        np.int64(index - first),
        np.int64(batch[at + at64(SLOT)]),
        np.int64(batch[at + at64(LANE_OF)]),
        np.int64(phase),
        np.int64(batch[at + at64(FIRST_INPUT)] + step),
    )


@device_function
def later(row: Any, steps: Any) -> Any:
    """The same row so many steps later."""
    return Row(row.number, row.slot, row.lane, row.phase ^ (steps & 1), row.given + steps)


@device_function
def place_of(kind: Any, base: Any, half: Any, stride: Any, row: Any) -> Any:
    """Where what belongs to a row begins: see `plan.OLD` and on."""
    which, number = row.phase & 1, row.slot
    if kind == NEW:
        which = 1 - which
    elif kind == FINAL:
        which = row.phase >> 1
    elif kind == BY_ROW:
        which, number = 0, row.number
    if which:
        base += half
    return plus_product(base, stride, number)
