"""Rows that no product makes: of inputs, of h whose scale is known only once all of it is, of states to and
fro.

A thread block of one warp makes a row.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.gather import place_of, row_of
from keepgate_kernels.cuda.layout import (
    LAYER_C,
    LAYER_CELL,
    LAYER_CELL_STRIDE,
    LAYER_FIRST,
    LAYER_H,
    LAYER_HALF,
    LAYER_ROWS,
    LAYER_ROWS_HALF,
    LAYER_ROWS_STRIDE,
    LAYER_SCALES,
    LAYER_STATE,
    LAYER_STRIDE,
)
from keepgate_kernels.cuda.plan import (
    ABSENT,
    COUNTS_AT,
    FEED_FEATURES,
    FEED_TABLE,
    H_SCALES,
    INPUTS_AT,
    KIND,
    OUT_BASE,
    OUT_HALF,
    OUT_PLACE,
    OUT_STRIDE,
    ROWS_AT,
    START,
    START_STRIDE,
    STATE_BASE,
    STATE_HALF,
    STATE_STRIDE,
    UNITS_OF,
)
from keepgate_kernels.cuda.rounding import LEAST, LEVELS, make_rounded
from keepgate_kernels.cuda.target import device_function
from keepgate_kernels.cuda.tiles import WARP

THREADS = WARP
AT_ONCE = 8
"""Numbers that a thread reads before it writes any: no load passes a store."""


def make_put_row(precision: str) -> Any:
    """put_row(source, at, count, operands, place, work, scale_at): source[at : at + count] as a row at
    `place`.

    In int8 with a scale of its own, which goes to work[scale_at], or with 1 / 127 if scale_at is ABSENT.
    """
    rounded, quantised = make_rounded(precision), precision == "int8"

    @device_function
    def put_row(
        source: Any, at: Any, count: Any, operands: Any, place: Any, work: Any, scale_at: Any
    ) -> None:
        largests = cuda.shared.array(THREADS, types.float32)
        thread = cuda.threadIdx.x
        inverse = LEVELS
        if quantised and scale_at != ABSENT:
            largest = LEAST
            for index in range(thread, count, THREADS):
                largest = max(largest, abs(source[at + index]))
            largests[thread] = largest
            cuda.syncthreads()
            for other in range(THREADS):
                largest = max(largest, largests[other])
            cuda.syncthreads()  # the next row writes there
            inverse = LEVELS / largest
            if thread == 0:
                work[scale_at] = largest * np.float32(1 / 127)
        read = cuda.local.array(AT_ONCE, types.float32)
        for first in range(thread, count, AT_ONCE * THREADS):
            for number in range(AT_ONCE):
                read[number] = source[at + min(first + number * THREADS, count - 1)]
            for number in range(AT_ONCE):
                index = first + number * THREADS
                if index < count:
                    operands[place + index] = rounded(read[number], inverse)

    return put_row


@functools.cache
def make_feed(precision: str) -> Any:
    """The kernel that makes a row for each lane of a step; a thread block each.

    Arguments: batch int32 and, the same memory, numbers float32; state, operands, values, work; plan of the
    rows; at: (step, first row).
    """
    put_row = make_put_row(precision)

    def feed(
        batch: Any, numbers: Any, state: Any, operands: Any, values: Any, work: Any, plan: Any, at: Any
    ) -> None:
        step, first = at
        index = first + cuda.blockIdx.x
        if index >= batch[batch[COUNTS_AT] + step]:
            return
        row = row_of(batch, batch[ROWS_AT], index, first, step)
        place = place_of(plan[OUT_PLACE], plan[OUT_BASE], plan[OUT_HALF], plan[OUT_STRIDE], row)
        scale_at = plan[H_SCALES] + (place - plan[OUT_BASE]) // plan[OUT_STRIDE]
        count = plan[UNITS_OF]
        if plan[KIND] == FEED_FEATURES:
            put_row(numbers, batch[INPUTS_AT] + row.given * count, count, operands, place, work, scale_at)
        elif plan[KIND] == FEED_TABLE:
            token = np.int64(batch[batch[INPUTS_AT] + row.given])
            source = plan[START] + plan[START_STRIDE] * token
            put_row(values, source, count, operands, place, work, scale_at)
        else:
            half = plan[STATE_HALF] * (1 - (row.phase & 1))
            source = plan[STATE_BASE] + half + plan[STATE_STRIDE] * row.slot
            put_row(state, source, count, operands, place, work, scale_at)

    return cuda.jit(feed)


@functools.cache
def make_read() -> Any:
    """The kernel that packs the states of slots, as `Slots.read` has them; a thread block each.

    Arguments: which int32 [B, 2], slots and the halves that are in use; state; layers int64, see `layout`;
    out float32 [B, numbers of a state].
    """

    def read(which: Any, state: Any, layers: Any, out: Any) -> None:
        slot, half = np.int64(which[cuda.blockIdx.x, 0]), np.int64(which[cuda.blockIdx.x, 1])
        for index in range(layers.shape[0]):
            first, size = layers[index, LAYER_FIRST], layers[index, LAYER_H]
            place = layers[index, LAYER_STATE] + half * layers[index, LAYER_HALF] + slot * size
            for unit in range(cuda.threadIdx.x, size, THREADS):
                out[cuda.blockIdx.x, first + unit] = state[place + unit]
            first += size
            place = layers[index, LAYER_CELL] + slot * layers[index, LAYER_CELL_STRIDE]
            for unit in range(cuda.threadIdx.x, layers[index, LAYER_C], THREADS):
                out[cuda.blockIdx.x, first + unit] = state[place + unit]

    return cuda.jit(read)


@functools.cache
def make_write(precision: str) -> Any:
    """The kernel that sets slots to packed states, and makes the rows that products read of them.

    Arguments as for `make_read`, with source float32 [*] instead of out, the states one after another; then
    operands and work.
    """
    put_row = make_put_row(precision)

    def write(which: Any, state: Any, layers: Any, source: Any, size: Any, operands: Any, work: Any) -> None:
        slot, half = np.int64(which[cuda.blockIdx.x, 0]), np.int64(which[cuda.blockIdx.x, 1])
        begin = np.int64(cuda.blockIdx.x) * size
        for index in range(layers.shape[0]):
            first, width = begin + layers[index, LAYER_FIRST], layers[index, LAYER_H]
            place = layers[index, LAYER_STATE] + half * layers[index, LAYER_HALF]
            place += slot * layers[index, LAYER_STRIDE]
            for unit in range(cuda.threadIdx.x, width, THREADS):
                state[place + unit] = source[first + unit]
            row = layers[index, LAYER_ROWS] + half * layers[index, LAYER_ROWS_HALF]
            row += slot * layers[index, LAYER_ROWS_STRIDE]
            scale_at = layers[index, LAYER_SCALES]
            if scale_at != ABSENT:
                scale_at += (row - layers[index, LAYER_ROWS]) // layers[index, LAYER_ROWS_STRIDE]
            put_row(source, first, width, operands, row, work, scale_at)
            first += width
            place = layers[index, LAYER_CELL] + slot * layers[index, LAYER_CELL_STRIDE]
            for unit in range(cuda.threadIdx.x, layers[index, LAYER_C], THREADS):
                state[place + unit] = source[first + unit]

    return cuda.jit(write)
