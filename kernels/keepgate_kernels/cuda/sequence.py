"""Many steps of a few rows in one launch, for a layer whose products with x have been made beforehand.

Every thread block keeps the recurrent weights of its units in shared memory from the first step to the
last. After a step all blocks of the grid meet, and read of the new h what the others made. Sums are added
in the order of `step`, so bits are those of as many single steps.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.finish import Memory, made_place, make_finish, outcome_of
from keepgate_kernels.cuda.gather import place_of, row_of
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
    ROWS_AT,
    SCRATCH,
    START,
    START_STRIDE,
    UNITS_OF,
    WIDTH,
)
from keepgate_kernels.cuda.product import (
    QUADS,
    make_aim_tiles,
    make_fetch_rows,
    make_fetch_tiles,
    make_fold,
    make_multiply,
    make_starts,
    row_pieces,
    tile_pieces,
)
from keepgate_kernels.cuda.ptx import WORD, address_of, commit, shared_address, waiting
from keepgate_kernels.cuda.rounding import BOUNDED_SCALE
from keepgate_kernels.cuda.target import at32, at64, bounded_kernel, int32
from keepgate_kernels.cuda.tiles import CHUNK_WORDS, SMALL, TILE_WORDS, UNITS, WARP, chunk_of, sum_groups
from keepgate_kernels.cuda.warp import sync_grid, sync_warp

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
    fetch_rows, fetch_tiles = make_fetch_rows(precision, SHAPE), make_fetch_tiles(gates, SHAPE)
    aim_tiles, own_row_pieces = make_aim_tiles(gates, SHAPE), row_pieces(SHAPE)
    own_tile_pieces = tile_pieces(gates, SHAPE)
    piece_size, chunk_size = chunk_of(precision) // QUADS, chunk_of(precision)
    multiply, fold = make_multiply(precision, gates, SHAPE), make_fold(precision, gates, SHAPE)
    finish, groups = make_finish(precision, gates), sum_groups(gates)
    wait = waiting(0)
    threads, split, rows = SHAPE.threads, SHAPE.split, SHAPE.rows
    across = SHAPE.blocks_across(gates)
    units, tiles_across, stride = across * UNITS, across * gates, SHAPE.sum_stride(gates)
    weight_words, row_words = tiles_across * TILE_WORDS, rows * CHUNK_WORDS
    chunk_words = weight_words + row_words
    chunk_step, starts = chunk_words * WORD, make_starts(precision)
    own_sums = tiles_across * 4
    quantised = precision == "int8"
    number = np.int32 if quantised else np.float32
    zero = number(0)

    def sequence(
        batch: Any, state: Any, operands: Any, weights: Any, values: Any, work: Any, plan: Any, at: Any
    ) -> None:
        words = cuda.shared.array(0, types.uint32)
        numbers = cuda.shared.array(0, types.float32)
        scales = cuda.shared.array(rows, types.float32)
        sums = cuda.local.array(own_sums, number)
        sources = cuda.local.array(own_row_pieces, types.int64)
        sizes = cuda.local.array(own_row_pieces, types.int32)
        tile_sources = cuda.local.array(own_tile_pieces, types.int64)
        first_step, steps, arrivals = at
        thread = cuda.threadIdx.x & (threads - 1)  # as it is; so the compiler knows that it is not negative
        group, lane = thread // WARP, thread % WARP
        memory, outcome = Memory(values, state, operands, work), outcome_of(plan)
        rows_at, counts_at, inputs_at = batch[ROWS_AT], batch[COUNTS_AT], batch[INPUTS_AT]
        lanes, width = batch[LANES], plan[WIDTH]
        h_place, h_base, h_half, h_stride = plan[H_PLACE], plan[H_BASE], plan[H_HALF], plan[H_STRIDE]
        chunks = plan[H_CHUNKS]
        own = int32(at32(chunks) // at32(split))
        own_at = group * own * chunk_words
        row_start, tile_start = starts(lane)
        own_rows_at = shared_address(words, own_at + row_start)
        own_tiles_at = shared_address(words, own_at + row_words + tile_start)
        rows_to = shared_address(words, own_at + lane * 4)
        sums_at = int32(chunks * chunk_words)
        first_tile = cuda.blockIdx.x * tiles_across
        column = thread % units
        unit = cuda.blockIdx.x * units + column
        units_of, start_at, start_stride = plan[UNITS_OF], plan[START] + unit, plan[START_STRIDE]
        tiles = width // UNITS * gates - first_tile
        tiles_at = plan[H_WEIGHTS] + first_tile * chunks * TILE_WORDS
        scale_at = plan[H_WEIGHT_SCALES] + first_tile * UNITS
        shift = 1 if plan[KIND] == GRU else 0
        aim_tiles(tile_sources, lane, weights, tiles_at, tiles, group * own, chunks)
        to = int32(rows_to + row_words * WORD)
        for chunk in range(own):
            fetch_tiles(words, to, lane, weights, tile_sources, chunk)
            to = int32(to + chunk_step)
        commit()
        for index in range(own_sums):
            sums[index] = zero
        if thread < rows:
            scales[thread] = BOUNDED_SCALE
        for turn in range(steps):
            now = first_step + turn
            count = batch[at64(counts_at + now)]
            for index in range(own_row_pieces):
                piece = index * WARP + lane
                place, sizes[index] = np.int64(0), int32(0)
                if piece // QUADS < count:
                    row = row_of(batch, rows_at, piece // QUADS, 0, now)
                    place = place_of(h_place, h_base, h_half, h_stride, row)
                    place += group * own * chunk_size + piece % QUADS * piece_size
                    sizes[index] = int32(16)
                sources[index] = address_of(operands, place)
            to = rows_to
            for chunk in range(own):
                fetch_rows(words, to, operands, sources, sizes, chunk)
                to = int32(to + chunk_step)
            commit()
            # Until the rows have come: what the sums start from.
            for index in range(thread // units, rows, threads // units):
                kept = outcome.work_base + outcome.work_stride * (turn * lanes + index) + unit
                for group_of in range(groups):
                    start = np.float32(0)
                    if outcome.work_base != ABSENT and index < count and unit < units_of:
                        start = work[at64(kept + group_of * width)]
                    numbers[at32(sums_at + index * stride + group_of * units + column)] = start
            wait()
            sync_warp()
            rows_of, tiles_of = own_rows_at, own_tiles_at
            for _ in range(own):
                multiply(words, rows_of, tiles_of, sums)
                rows_of, tiles_of = int32(rows_of + chunk_step), int32(tiles_of + chunk_step)
            for turn_of in range(split):
                cuda.syncthreads()
                if turn_of == group:
                    fold(numbers, sums_at, shift, 0, 0, lane, sums, scales, 0, values, scale_at, tiles)
            cuda.syncthreads()
            if unit < units_of:
                for index in range(thread // units, count, threads // units):
                    row = row_of(batch, rows_at, index, 0, now)
                    start = start_at
                    if start_stride != 0:
                        start += start_stride * np.int64(batch[at64(inputs_at + row.given)])
                    own_place = sums_at + index * stride + column
                    finish(memory, outcome, row, unit, start, numbers, own_place, units)
                    kept = plan[SCRATCH] + outcome.out_stride * (turn * lanes + index)
                    made = made_place(outcome, row)
                    operands[at64(kept + unit)] = operands[at64(made + unit)]
            sync_grid(batch, ARRIVED, arrivals + (turn + 1) * cuda.gridDim.x)

    return bounded_kernel(sequence, threads, 1)
