"""Many steps of a few rows in one launch, for a layer whose products with x have been made beforehand.

Every thread block keeps the recurrent weights of its units in shared memory from the first step to the
last. After a step all blocks of the grid meet, and read of the new h what the others made. The L1 cache is
empty then, so what does not change from step to step is kept in registers, a step begins with reading h, and
what else is known before its sums are is read while h is on its way. Sums are added in the order of `step`,
so bits are those of as many single steps.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.finish import Memory, is_bad, known_numbers, make_finish, make_look
from keepgate_kernels.cuda.gather import Row, later, place_of, row_of
from keepgate_kernels.cuda.places import keep_places, kept_places, outcome_of, places_of
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
    UNITS_OF,
    WIDTH,
)
from keepgate_kernels.cuda.product import (
    QUADS,
    make_aim_tiles,
    make_fetch_rows,
    make_fetch_tiles,
    make_multiply,
    make_starts,
    row_pieces,
    tile_pieces,
)
from keepgate_kernels.cuda.ptx import SHARED_ALIGNMENT, WORD, address_of, commit, shared_address, waiting
from keepgate_kernels.cuda.rounding import BOUNDED_SCALE, LEVELS, make_rounded
from keepgate_kernels.cuda.sums import make_add_parts, make_column_scales, make_put_part
from keepgate_kernels.cuda.target import at32, at64, bounded_kernel, device_function, int32
from keepgate_kernels.cuda.tiles import (
    CHUNK_WORDS,
    KEPT,
    SMALL,
    TILE_WORDS,
    UNITS,
    WARP,
    chunk_of,
    sum_groups,
)
from keepgate_kernels.cuda.warp import sync_grid, sync_warp

SHAPE = SMALL
ROWS = SHAPE.rows
"""The most rows that a sequence may have."""


def shared_bytes(gates: int, chunks: int) -> int:
    """Dynamic shared memory of a thread block: weights and rows of all chunks of h, then parts."""
    words = chunks * (SHAPE.blocks_across(gates) * gates * TILE_WORDS + ROWS * CHUNK_WORDS)
    return 4 * (words + SHAPE.split * SHAPE.sum_words(gates))


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
    part_words, read_column_scales = SHAPE.sum_words(gates), make_column_scales(gates)
    multiply, put_part = make_multiply(precision, gates, SHAPE), make_put_part(precision, gates, SHAPE)
    add_parts = make_add_parts(precision, gates, SHAPE, part_words)
    look, finish, known_size = make_look(gates), make_finish(precision, gates), known_numbers(gates)
    groups, rounded = sum_groups(gates), make_rounded(precision)
    wait = waiting(0)
    threads, split, rows = SHAPE.threads, SHAPE.split, SHAPE.rows
    across = SHAPE.blocks_across(gates)
    units, tiles_across, stride = across * UNITS, across * gates, SHAPE.sum_stride(gates)
    weight_words, row_words = tiles_across * TILE_WORDS, rows * CHUNK_WORDS
    chunk_words = weight_words + row_words
    chunk_step, starts = chunk_words * WORD, make_starts(precision)
    own_sums, down = tiles_across * 4, threads // units
    own_units = rows // down
    own_begun, own_known, own_kept = own_units * groups, own_units * known_size, own_units * KEPT
    quantised = precision == "int8"
    number = np.int32 if quantised else np.float32
    zero = number(0)

    @device_function
    def read_begun(
        begun: Any, work: Any, outcome: Any, first: Any, count: Any, thread: Any, unit: Any, units_of: Any
    ) -> None:
        """What the thread's sums of a step start from, [own rows, groups]. first: the step's first row."""
        for index in range(own_units):
            row = thread // units + index * down
            place = outcome.work_base + outcome.work_stride * (first + row) + unit
            for group in range(groups):
                begun[index * groups + group] = np.float32(0)
                if outcome.work_base != ABSENT and row < count and unit < units_of:
                    begun[index * groups + group] = work[at64(place + group * outcome.width)]

    @device_function
    def row_in_registers(thread: Any, index: Any, slots: Any, phases: Any, givens: Any) -> Any:
        """The thread's row of that index, at the first step."""
        number, slot = np.int64(thread // units + index * down), np.int64(slots[index])
        return Row(number, slot, number, np.int64(phases[index]), np.int64(givens[index]))

    def sequence(
        batch: Any, state: Any, operands: Any, weights: Any, values: Any, work: Any, plan: Any, at: Any
    ) -> None:
        words = cuda.shared.array(0, types.uint32, SHARED_ALIGNMENT)
        numbers = cuda.shared.array(0, types.float32, SHARED_ALIGNMENT)
        sums = cuda.local.array(own_sums, number)
        begun = cuda.local.array(own_begun, types.float32)
        coming = cuda.local.array(own_begun, types.float32)
        known = cuda.local.array(own_known, types.float32)
        kept = cuda.local.array(own_kept, types.int64)
        totals = cuda.local.array(groups, types.float32)
        column_scales = cuda.local.array(groups, types.float32)
        sources = cuda.local.array(own_row_pieces, types.int64)
        next_sources = cuda.local.array(own_row_pieces, types.int64)
        slots = cuda.local.array(own_units, types.int32)
        lane_numbers = cuda.local.array(own_units, types.int32)
        phases = cuda.local.array(own_units, types.int32)
        givens = cuda.local.array(own_units, types.int32)
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
        parts_at = int32(chunks * chunk_words)
        first_tile = cuda.blockIdx.x * tiles_across
        column = thread % units
        unit = cuda.blockIdx.x * units + column
        units_of = plan[UNITS_OF]
        tiles = width // UNITS * gates - first_tile
        tiles_at = plan[H_WEIGHTS] + first_tile * chunks * TILE_WORDS
        shift, plan_scratch, last_step = 1 if plan[KIND] == GRU else 0, plan[SCRATCH], first_step + steps - 1
        aim_tiles(tile_sources, lane, weights, tiles_at, tiles, group * own, chunks)
        to = int32(rows_to + row_words * WORD)
        for chunk in range(own):
            fetch_tiles(words, to, lane, weights, tile_sources, chunk)
            to = int32(to + chunk_step)
        commit()
        for index in range(own_sums):
            sums[index] = zero
        if quantised and unit < units_of:
            read_column_scales(values, plan[H_WEIGHT_SCALES], shift, unit, column_scales)
        count = batch[at64(counts_at + first_step)]  # no step has more
        for index in range(own_row_pieces):
            piece = index * WARP + lane
            sources[index] = next_sources[index] = address_of(operands, 0)
            if piece // QUADS < count:
                row = row_of(batch, rows_at, piece // QUADS, 0, first_step)
                part = group * own * chunk_size + piece % QUADS * piece_size
                place = place_of(h_place, h_base, h_half, h_stride, row)
                sources[index] = address_of(operands, place + part)
                place = place_of(h_place, h_base, h_half, h_stride, later(row, 1))
                next_sources[index] = address_of(operands, place + part)
        for index in range(own_units):
            if thread // units + index * down < count:
                row = row_of(batch, rows_at, thread // units + index * down, 0, first_step)
                slots[index], lane_numbers[index] = int32(row.slot), int32(row.lane)
                phases[index], givens[index] = int32(row.phase), int32(row.given)
        own_parts_at = parts_at + thread // units * stride + column
        read_begun(begun, work, outcome, 0, count, thread, unit, units_of)
        for turn in range(steps):
            to, room = rows_to, int32(count - lane // QUADS)
            for chunk in range(own):
                fetch_rows(words, to, operands, sources, room, chunk)
                to = int32(to + chunk_step)
            commit()
            for index in range(own_row_pieces):
                sources[index], next_sources[index] = next_sources[index], sources[index]
            for index in range(own_units):
                if thread // units + index * down < count and unit < units_of:
                    row = row_in_registers(thread, index, slots, phases, givens)
                    places = places_of(outcome, batch, inputs_at, later(row, turn))
                    keep_places(kept, index, places)
                    look(memory, outcome, places, unit, known, index * known_size)
            following = min(first_step + turn + 1, last_step)
            next_count = batch[at64(counts_at + following)]
            # Of all lanes, also of those that have ended: what reads their sums must not wait for the count.
            next_row = (following - first_step) * lanes
            read_begun(coming, work, outcome, next_row, lanes, thread, unit, units_of)
            wait()
            sync_warp()
            rows_of, tiles_of = own_rows_at, own_tiles_at
            for _ in range(own):
                multiply(words, rows_of, tiles_of, sums)
                rows_of, tiles_of = int32(rows_of + chunk_step), int32(tiles_of + chunk_step)
            put_part(numbers, parts_at + group * part_words, lane, sums)
            for index in range(own_sums):
                sums[index] = zero
            cuda.syncthreads()
            for index in range(own_units):
                own_row = thread // units + index * down
                if own_row < count and unit < units_of:
                    for number_of in range(groups):
                        totals[number_of] = begun[index * groups + number_of]
                    own_place = own_parts_at + index * down * stride
                    add_parts(numbers, own_place, shift, BOUNDED_SCALE, column_scales, totals)
                    places = kept_places(kept, index, outcome, own_row)
                    h = finish(memory, outcome, places, unit, known, index * known_size, totals)
                    if is_bad(outcome, h):
                        work[at64(outcome.bad + lane_numbers[index])] = np.float32(1)
                    at_step = plan_scratch + outcome.out_stride * (turn * lanes + own_row)
                    operands[at64(at_step + unit)] = rounded(h, LEVELS)
            for index in range(own_begun):
                begun[index] = coming[index]
            count = next_count
            sync_grid(batch, ARRIVED, arrivals + (turn + 1) * cuda.gridDim.x)

    return bounded_kernel(sequence, threads, 1)
