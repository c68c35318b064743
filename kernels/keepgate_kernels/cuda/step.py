"""One launch of a layer, or of the head: gather rows, multiply, gates, scatter.

A thread block makes all sums of its rows and blocks of units, and turns them into state, so no sum leaves it.
The state has two halves: a step reads one and writes the other, so no block reads what another has written.
Only c, which its own unit alone reads, is changed in place.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keepgate_kernels.cuda.finish import Memory, Row, make_finish, place_of
from keepgate_kernels.cuda.plan import (
    ABSENT,
    COUNTS_AT,
    FIRST_INPUT,
    GRU,
    GRU_RESET,
    H_BASE,
    H_CHUNKS,
    H_HALF,
    H_PLACE,
    H_SCALES,
    H_STRIDE,
    H_WEIGHT_SCALES,
    H_WEIGHTS,
    HOISTED,
    INPUTS_AT,
    KIND,
    LANE_OF,
    ROW_WORDS,
    ROWS_AT,
    SLOT,
    START,
    START_STRIDE,
    STEPS,
    UNITS_OF,
    WIDTH,
    WORK_BASE,
    WORK_STRIDE,
    X_BASE,
    X_CHUNKS,
    X_HALF,
    X_PLACE,
    X_SCALES,
    X_STRIDE,
    X_WEIGHT_SCALES,
    X_WEIGHTS,
)
from keepgate_kernels.cuda.product import make_fetch_rows, make_fetch_weights, make_fold, make_multiply
from keepgate_kernels.cuda.rounding import BOUNDED_SCALE
from keepgate_kernels.cuda.target import device_function
from keepgate_kernels.cuda.tiles import (
    CHUNK_WORDS,
    QUARTERS,
    ROWS,
    TILE_WORDS,
    UNITS,
    WARP,
    Shape,
    sum_groups,
)
from keepgate_kernels.cuda.warp import commit, sync_warp, waiting
from numba import cuda
from numba.cuda import types


@device_function
def row_of(batch: Any, index: Any, first: Any, step: Any) -> Any:
    """The row `index` of a tick, which is number index - first of a group of them."""
    at = batch[ROWS_AT] + index * ROW_WORDS
    steps = batch[at + STEPS]
    before = steps & 1
    phase = ((before + step) & 1) | (((before + (steps >> 1)) & 1) << 1)
    return Row(
        np.int64(index - first),
        np.int64(batch[at + SLOT]),
        np.int64(batch[at + LANE_OF]),
        np.int64(phase),
        np.int64(batch[at + FIRST_INPUT] + step),
    )


@functools.cache
def make_step(precision: str, gates: int, shape: Shape) -> Any:
    """The kernel for products with that many gates.

    Arguments: batch int32, see `plan.HEADER`; state, values, work float32; operands of the precision;
    weights uint32; plan int64 of the product; at: (step, first row of a group of rows). Grid: groups of
    blocks of units, groups of rows.
    """
    fetch_rows, fetch_weights = make_fetch_rows(precision, shape), make_fetch_weights(gates, shape)
    multiply, fold = make_multiply(precision, gates, shape), make_fold(precision, gates, shape)
    finish, groups = make_finish(precision, gates), sum_groups(gates)
    row_words = shape.rows * CHUNK_WORDS
    wait = waiting(shape.stages - 2)
    rows, threads, stages, split = shape.rows, shape.threads, shape.stages, shape.split
    both_rows = 2 * rows
    across = shape.blocks_across(gates)
    units, stage_words = across * UNITS, shape.stage_words(gates)
    stride, sums_at = shape.sum_stride(gates), shape.split * shape.stages * shape.stage_words(gates)
    all_sums = rows * stride
    group_threads, column_warps = shape.group_threads, shape.column_warps
    tiles_across, own_tiles = across * gates, shape.blocks_of(gates) * gates
    own_rows = shape.row_tiles * ROWS
    own_sums = shape.row_tiles * own_tiles * 4
    quantised, one_warp = precision == "int8", shape.group_threads == WARP
    number = np.int32 if quantised else np.float32
    zero = number(0)

    def step(
        batch: Any, state: Any, operands: Any, weights: Any, values: Any, work: Any, plan: Any, at: Any
    ) -> None:
        words = cuda.shared.array(0, types.uint32)
        numbers = cuda.shared.array(0, types.float32)
        places = cuda.shared.array(both_rows, types.int64)
        scales = cuda.shared.array(both_rows, types.float32)
        sums = cuda.local.array(own_sums, number)
        now, first = at
        thread = cuda.threadIdx.x
        count = batch[batch[COUNTS_AT] + now]
        first_row = first + cuda.blockIdx.y * rows
        if first_row >= count:
            return
        memory = Memory(plan, values, state, operands, work)
        for index in range(thread, rows, threads):
            x_place, h_place = np.int64(ABSENT), np.int64(ABSENT)
            if first_row + index < count:
                row = row_of(batch, first_row + index, first, now)
                x_place = place_of(plan[X_PLACE], plan[X_BASE], plan[X_HALF], plan[X_STRIDE], row)
                h_place = place_of(plan[H_PLACE], plan[H_BASE], plan[H_HALF], plan[H_STRIDE], row)
                if quantised:
                    scales[index] = scales[rows + index] = BOUNDED_SCALE
                    if plan[X_SCALES] != ABSENT:
                        scales[index] = work[plan[X_SCALES] + (x_place - plan[X_BASE]) // plan[X_STRIDE]]
                    if plan[H_SCALES] != ABSENT:
                        scales[rows + index] = work[
                            plan[H_SCALES] + (h_place - plan[H_BASE]) // plan[H_STRIDE]
                        ]
            elif quantised:
                scales[index] = scales[rows + index] = np.float32(0)
            places[index], places[rows + index] = x_place, h_place
        for index in range(thread, all_sums, threads):
            numbers[sums_at + index] = np.float32(0)
        for index in range(own_sums):
            sums[index] = zero
        cuda.syncthreads()

        group, member = thread // group_threads, thread % group_threads
        warp, lane = member // WARP, member % WARP
        warp_row, warp_tile = warp // column_warps * own_rows, warp % column_warps * own_tiles
        own_stages = group * stages * stage_words
        rows_at = own_stages + warp_row * CHUNK_WORDS
        weights_at = own_stages + rows * CHUNK_WORDS + warp_tile * TILE_WORDS
        first_tile = cuda.blockIdx.x * tiles_across
        tiles = plan[WIDTH] // UNITS * gates - first_tile
        x_chunks, h_chunks = plan[X_CHUNKS], plan[H_CHUNKS]
        own_x, own_h = x_chunks // split, h_chunks // split
        x_tiles = plan[X_WEIGHTS] + first_tile * x_chunks * TILE_WORDS
        h_tiles = plan[H_WEIGHTS] + first_tile * h_chunks * TILE_WORDS
        x_scales = plan[X_WEIGHT_SCALES] + first_tile * UNITS
        h_scales = plan[H_WEIGHT_SCALES] + first_tile * UNITS
        kind = plan[KIND]
        h_shift = 1 if kind in (GRU, GRU_RESET) else 0
        total = own_x + own_h
        # The loop runs `ahead` turns more: those that only fetch, in front.
        ahead = stages - 1
        for turn in range(total + ahead):
            if turn >= ahead:
                wait()
                if one_warp:
                    sync_warp()
                else:
                    cuda.syncthreads()
            if turn < total:
                stage = own_stages + turn % stages * stage_words
                if turn < own_x:
                    chunk = group * own_x + turn
                    fetch_rows(words, stage, member, operands, places, 0, chunk)
                    fetch_weights(words, stage + row_words, member, weights, x_tiles, tiles, chunk, x_chunks)
                else:
                    chunk = group * own_h + turn - own_x
                    fetch_rows(words, stage, member, operands, places, rows, chunk)
                    fetch_weights(words, stage + row_words, member, weights, h_tiles, tiles, chunk, h_chunks)
            commit()
            done = turn - ahead
            if done >= 0:
                stage = done % stages * stage_words
                multiply(words, rows_at + stage, weights_at + stage, lane, sums)
                if done < own_x:
                    quarter_ends = (done + 1) % (own_x * split // QUARTERS) == 0
                else:
                    quarter_ends = (done + 1 - own_x) % (own_h * split // QUARTERS) == 0
                if quarter_ends:
                    shift, scale_at, first_scale = 0, x_scales, 0
                    if done >= own_x:
                        shift, scale_at, first_scale = h_shift, h_scales, rows
                    for turn_of in range(split):
                        if split > 1:
                            cuda.syncthreads()
                        if turn_of == group:
                            fold(
                                numbers,
                                sums_at,
                                shift,
                                warp_row,
                                warp_tile,
                                lane,
                                sums,
                                scales,
                                first_scale,
                                values,
                                scale_at,
                                tiles,
                            )
        cuda.syncthreads()

        first_unit = cuda.blockIdx.x * units
        width = plan[WIDTH]
        for index in range(thread, rows * units, threads):
            unit = first_unit + index % units
            if first_row + index // units < count and unit < plan[UNITS_OF]:
                row = row_of(batch, first_row + index // units, first, now)
                own = sums_at + index // units * stride + index % units
                if kind == HOISTED:
                    place = plan[WORK_BASE] + plan[WORK_STRIDE] * row.number + unit
                    for group_of in range(groups):
                        work[place + group_of * width] = numbers[own + group_of * units]
                    continue
                start = plan[START] + unit
                if plan[START_STRIDE] != 0:
                    start += plan[START_STRIDE] * np.int64(batch[batch[INPUTS_AT] + row.given])
                finish(memory, row, unit, values, start, width, numbers, own, units)

    return cuda.jit(step)
