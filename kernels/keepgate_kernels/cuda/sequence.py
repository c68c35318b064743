"""Many steps of a few rows in one launch, for a layer whose products with x have been made beforehand.

Every thread block keeps the recurrent weights of its units in shared memory from the first step to the
last. After a step all blocks of the grid meet, and read of the new h what the others made. Sums are added
in the order of `step`, so bits are those of as many single steps.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keepgate_kernels.cuda.finish import Memory, make_finish, place_of
from keepgate_kernels.cuda.plan import (
    ABSENT,
    ARRIVED,
    COUNTS_AT,
    GRU,
    H_BASE,
    H_CHUNKS,
    H_HALF,
    H_PLACE,
    H_STRIDE,
    H_WEIGHT_SCALES,
    H_WEIGHTS,
    INPUTS_AT,
    KIND,
    LANES,
    OUT_BASE,
    OUT_HALF,
    OUT_PLACE,
    OUT_STRIDE,
    SCRATCH,
    START,
    START_STRIDE,
    UNITS_OF,
    WIDTH,
    WORK_BASE,
    WORK_STRIDE,
)
from keepgate_kernels.cuda.product import make_fetch_rows, make_fetch_weights, make_fold, make_multiply
from keepgate_kernels.cuda.rounding import BOUNDED_SCALE
from keepgate_kernels.cuda.step import row_of
from keepgate_kernels.cuda.tiles import CHUNK_WORDS, SMALL, TILE_WORDS, UNITS, WARP, sum_groups
from keepgate_kernels.cuda.warp import commit, sync_grid, sync_warp, waiting
from numba import cuda
from numba.cuda import types

SHAPE = SMALL
ROWS = SHAPE.rows
"""The most rows that a sequence may have."""


def shared_bytes(gates: int, chunks: int) -> int:
    """Dynamic shared memory of a thread block: weights and rows of all chunks of h, then sums."""
    words = chunks * (SHAPE.blocks_across(gates) * gates * TILE_WORDS + ROWS * CHUNK_WORDS)
    return 4 * (words + ROWS * SHAPE.sum_stride(gates))


@functools.cache
def make_sequence(precision: str, gates: int) -> Any:
    """The kernel for a layer with that many gates and one product.

    Arguments as for `step.make_step`; at: (first step, steps, thread blocks that came to barriers before).
    In work at WORK_BASE, unless it is ABSENT, lie the sums of the products with x, [steps, lanes, groups,
    units]; in operands at SCRATCH go the rows of h, [steps, lanes, as wide as the layer's own].
    """
    fetch_rows, fetch_weights = make_fetch_rows(precision, SHAPE), make_fetch_weights(gates, SHAPE)
    multiply, fold = make_multiply(precision, gates, SHAPE), make_fold(precision, gates, SHAPE)
    finish, groups = make_finish(precision, gates), sum_groups(gates)
    wait = waiting(0)
    threads, split, rows = SHAPE.threads, SHAPE.split, SHAPE.rows
    across = SHAPE.blocks_across(gates)
    units, tiles_across, stride = across * UNITS, across * gates, SHAPE.sum_stride(gates)
    weight_words, row_words = tiles_across * TILE_WORDS, rows * CHUNK_WORDS
    chunk_words = weight_words + row_words
    own_sums = tiles_across * 4
    quantised = precision == "int8"
    number = np.int32 if quantised else np.float32
    zero = number(0)

    def sequence(
        batch: Any, state: Any, operands: Any, weights: Any, values: Any, work: Any, plan: Any, at: Any
    ) -> None:
        words = cuda.shared.array(0, types.uint32)
        numbers = cuda.shared.array(0, types.float32)
        places = cuda.shared.array(rows, types.int64)
        scales = cuda.shared.array(rows, types.float32)
        sums = cuda.local.array(own_sums, number)
        first_step, steps, arrivals = at
        thread = cuda.threadIdx.x
        group, lane = thread // WARP, thread % WARP
        memory = Memory(plan, values, state, operands, work)
        lanes, width, kind = batch[LANES], plan[WIDTH], plan[KIND]
        chunks = plan[H_CHUNKS]
        own = chunks // split
        own_at = group * own * chunk_words
        sums_at = chunks * chunk_words
        first_tile, first_unit = cuda.blockIdx.x * tiles_across, cuda.blockIdx.x * units
        tiles = width // UNITS * gates - first_tile
        tiles_at = plan[H_WEIGHTS] + first_tile * chunks * TILE_WORDS
        scale_at = plan[H_WEIGHT_SCALES] + first_tile * UNITS
        shift = 1 if kind == GRU else 0
        for chunk in range(own):
            to = own_at + chunk * chunk_words + row_words
            fetch_weights(words, to, lane, weights, tiles_at, tiles, group * own + chunk, chunks)
        commit()
        for index in range(own_sums):
            sums[index] = zero
        if thread < rows:
            scales[thread] = BOUNDED_SCALE
        for turn in range(steps):
            now = first_step + turn
            count = batch[batch[COUNTS_AT] + now]
            if thread < rows:
                place = np.int64(ABSENT)
                if thread < count:
                    row = row_of(batch, thread, 0, now)
                    place = place_of(plan[H_PLACE], plan[H_BASE], plan[H_HALF], plan[H_STRIDE], row)
                places[thread] = place
            for index in range(thread, rows * groups * units, threads):
                row_number, column = index // (groups * units), index % (groups * units)
                unit = first_unit + column % units
                start = np.float32(0)
                if plan[WORK_BASE] != ABSENT and row_number < count and unit < plan[UNITS_OF]:
                    kept = plan[WORK_BASE] + plan[WORK_STRIDE] * (turn * lanes + row_number)
                    start = work[kept + column // units * width + unit]
                numbers[sums_at + row_number * stride + column] = start
            cuda.syncthreads()
            for chunk in range(own):
                to = own_at + chunk * chunk_words
                fetch_rows(words, to, lane, operands, places, 0, group * own + chunk)
            commit()
            wait()
            sync_warp()
            for chunk in range(own):
                stage = own_at + chunk * chunk_words
                multiply(words, stage, stage + row_words, lane, sums)
            for turn_of in range(split):
                cuda.syncthreads()
                if turn_of == group:
                    fold(numbers, sums_at, shift, 0, 0, lane, sums, scales, 0, values, scale_at, tiles)
            cuda.syncthreads()
            for index in range(thread, rows * units, threads):
                row_number, unit = index // units, first_unit + index % units
                if row_number < count and unit < plan[UNITS_OF]:
                    row = row_of(batch, row_number, 0, now)
                    start = plan[START] + unit
                    if plan[START_STRIDE] != 0:
                        start += plan[START_STRIDE] * np.int64(batch[batch[INPUTS_AT] + row.given])
                    place = sums_at + row_number * stride + index % units
                    finish(memory, row, unit, values, start, width, numbers, place, units)
                    made = place_of(plan[OUT_PLACE], plan[OUT_BASE], plan[OUT_HALF], plan[OUT_STRIDE], row)
                    kept = plan[SCRATCH] + plan[OUT_STRIDE] * (turn * lanes + row_number)
                    operands[kept + unit] = operands[made + unit]
            sync_grid(batch, ARRIVED, arrivals + (turn + 1) * cuda.gridDim.x)

    return cuda.jit(sequence)
