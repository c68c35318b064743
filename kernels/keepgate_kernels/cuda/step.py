"""One launch of a layer, or of the head: gather rows, multiply, gates, scatter.

A thread block makes all sums of its rows and blocks of units, and turns them into state, so no sum leaves it.
The state has two halves: a step reads one and writes the other, so no block reads what another has written.
Only c, which its own unit alone reads, is changed in place.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.finish import Memory, known_numbers
from keepgate_kernels.cuda.gather import place_of, row_of
from keepgate_kernels.cuda.places import Places, keep_places, outcome_of
from keepgate_kernels.cuda.plan import (
    ABSENT,
    COUNTS_AT,
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
    INPUTS_AT,
    KIND,
    ROW_WORDS,
    ROWS_AT,
    UNITS_OF,
    WIDTH,
    X_BASE,
    X_CHUNKS,
    X_HALF,
    X_PLACE,
    X_SCALES,
    X_STRIDE,
    X_WEIGHT_SCALES,
    X_WEIGHTS,
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
from keepgate_kernels.cuda.rounding import BOUNDED_SCALE
from keepgate_kernels.cuda.scatter import Rows, make_meet, make_scatter, places_in
from keepgate_kernels.cuda.sums import make_column_scales, make_fold, make_put_part
from keepgate_kernels.cuda.target import at32, at64, bounded_kernel, int32
from keepgate_kernels.cuda.tiles import (
    CHUNK_WORDS,
    KEPT,
    QUARTERS,
    ROWS,
    TILE_WORDS,
    UNITS,
    WARP,
    Shape,
    chunk_of,
    sum_groups,
)
from keepgate_kernels.cuda.warp import sync_warp

MOST_SUMS = 64
"""Of a thread, beside which there are registers for what is known of its first row."""


@functools.cache
def make_step(precision: str, gates: int, shape: Shape) -> Any:
    """The kernel for products with that many gates.

    Arguments: batch int32, see `plan.HEADER`; state, values, work float32; operands of the precision;
    weights uint32; plan int64 of the product; at: (step, first row of a group of rows). Grid: groups of
    blocks of units, groups of rows.
    """
    fetch_rows, fetch_tiles = make_fetch_rows(precision, shape), make_fetch_tiles(gates, shape)
    multiply, fold = make_multiply(precision, gates, shape), make_fold(precision, gates, shape)
    aim_tiles, own_row_pieces = make_aim_tiles(gates, shape), row_pieces(shape)
    own_tile_pieces = tile_pieces(gates, shape)
    piece_size, chunk_size = chunk_of(precision) // QUADS, chunk_of(precision)
    meet, scatter = make_meet(gates), make_scatter(precision, gates, shape)
    put_part, read_column_scales = make_put_part(precision, gates, shape), make_column_scales(gates)
    groups, known_size = sum_groups(gates), known_numbers(gates)
    stage_size, starts = shape.stage_words(gates) * WORD, make_starts(precision)
    wait, wait_for_all = waiting(shape.stages - 2), waiting(0)
    rows, threads, stages, split = shape.rows, shape.threads, shape.stages, shape.split
    ahead, both_rows, row_words = stages - 1, 2 * rows, rows * CHUNK_WORDS
    across = shape.blocks_across(gates)
    group_words, x_part, in_parts = shape.group_words(gates), shape.x_part(gates), split > 1
    units, sums_at = across * UNITS, 0 if in_parts else group_words
    all_sums, group_threads, column_warps = shape.sum_words(gates), shape.group_threads, shape.column_warps
    tiles_across, own_tiles = across * gates, shape.blocks_of(gates) * gates
    own_rows, own_sums = shape.row_tiles * ROWS, shape.row_tiles * own_tiles * 4
    quarters, looks_early, kept_size = QUARTERS // split, own_sums <= MOST_SUMS, rows * KEPT
    quantised, one_warp = precision == "int8", shape.group_threads == WARP
    number = np.int32 if quantised else np.float32
    zero = number(0)

    def step(
        batch: Any, state: Any, operands: Any, weights: Any, values: Any, work: Any, plan: Any, at: Any
    ) -> None:
        words = cuda.shared.array(0, types.uint32, SHARED_ALIGNMENT)
        numbers = cuda.shared.array(0, types.float32, SHARED_ALIGNMENT)
        scales = cuda.shared.array(both_rows, types.float32)
        kept = cuda.shared.array(kept_size, types.int64)
        sums = cuda.local.array(own_sums, number)
        known = cuda.local.array(known_size, types.float32)
        x_scales = cuda.local.array(groups, types.float32)
        h_scales = cuda.local.array(groups, types.float32)
        sources = cuda.local.array(own_row_pieces, types.int64)
        h_sources = cuda.local.array(own_row_pieces, types.int64)
        tile_sources = cuda.local.array(own_tile_pieces, types.int64)
        now, first = at
        thread = cuda.threadIdx.x & (threads - 1)  # as it is; so the compiler knows that it is not negative
        group, member = thread // group_threads, thread % group_threads
        rows_at = batch[ROWS_AT]
        count = batch[at64(batch[COUNTS_AT] + now)]
        first_row = first + cuda.blockIdx.y * rows
        first_tile = cuda.blockIdx.x * tiles_across
        tiles = int32(at32(plan[WIDTH]) // at32(UNITS)) * gates - first_tile
        x_chunks, h_chunks = plan[X_CHUNKS], plan[H_CHUNKS]
        own_x, own_h = int32(at32(x_chunks) // at32(split)), int32(at32(h_chunks) // at32(split))
        total = int32(own_x + own_h)
        x_kind, x_base, x_half, x_stride = plan[X_PLACE], plan[X_BASE], plan[X_HALF], plan[X_STRIDE]
        h_kind, h_base, h_half, h_stride = plan[H_PLACE], plan[H_BASE], plan[H_HALF], plan[H_STRIDE]
        x_tiles = plan[X_WEIGHTS] + first_tile * x_chunks * TILE_WORDS
        h_tiles = plan[H_WEIGHTS] + first_tile * h_chunks * TILE_WORDS

        # Copies are started as soon as what they need is known: of weights the plan alone, of rows no count.
        tiles_at, begins, chunks = x_tiles, group * own_x, x_chunks
        if own_x == 0:
            tiles_at, begins, chunks = h_tiles, group * own_h, h_chunks
        aim_tiles(tile_sources, member, weights, tiles_at, tiles, begins, chunks)
        own_stages = group * group_words
        rows_to = shared_address(words, own_stages + member * 4)
        tiles_to = int32(rows_to + row_words * WORD)
        chunk = int32(0)
        fetch_tiles(words, tiles_to, member, weights, tile_sources, chunk)
        room = int32(count - first_row - member // QUADS)
        last = int32(at32(batch.size - rows_at) // at32(ROW_WORDS)) - 1
        for index in range(own_row_pieces):
            piece = index * group_threads + member
            row_number = first_row + piece // QUADS
            row = row_of(batch, rows_at, min(row_number, last), first, now)
            x_place = place_of(x_kind, x_base, x_half, x_stride, row)
            h_place = place_of(h_kind, h_base, h_half, h_stride, row)
            x_place += group * own_x * chunk_size + piece % QUADS * piece_size
            h_place += group * own_h * chunk_size + piece % QUADS * piece_size
            if row_number >= count:
                x_place, h_place = np.int64(0), np.int64(0)
            if own_x == 0:
                x_place = h_place
            sources[index] = address_of(operands, x_place)
            h_sources[index] = address_of(operands, h_place)
        fetch_rows(words, rows_to, operands, sources, room, chunk)
        commit()
        if first_row >= count:  # as every thread of the block finds
            wait_for_all()
            return
        chunk = int32(1)
        for fetched in range(1, ahead):
            if fetched == own_x:
                chunk = int32(0)
                aim_tiles(tile_sources, member, weights, h_tiles, tiles, group * own_h, h_chunks)
                for index in range(own_row_pieces):
                    sources[index] = h_sources[index]
            if fetched < total:
                to = fetched * stage_size
                fetch_rows(words, rows_to + to, operands, sources, room, chunk)
                fetch_tiles(words, tiles_to + to, member, weights, tile_sources, chunk)
            commit()
            chunk = int32(chunk + 1)

        if not in_parts:
            for index in range(thread, all_sums, threads):
                numbers[at32(sums_at + index)] = np.float32(0)
        for index in range(own_sums):
            sums[index] = zero
        if quantised:
            x_scale, h_scale = np.float32(0), np.float32(0)
            if first_row + thread < count and thread < rows:
                x_scale = h_scale = BOUNDED_SCALE
                row = row_of(batch, rows_at, first_row + thread, first, now)
                if plan[X_SCALES] != ABSENT:
                    place = place_of(x_kind, 0, x_half, x_stride, row)
                    x_scale = work[plan[X_SCALES] + place // x_stride]
                if plan[H_SCALES] != ABSENT:
                    place = place_of(h_kind, 0, h_half, h_stride, row)
                    h_scale = work[plan[H_SCALES] + place // h_stride]
            if thread < rows:
                scales[thread], scales[rows + thread] = x_scale, h_scale
        warp, lane = member // WARP, member % WARP
        warp_row, warp_tile = warp // column_warps * own_rows, warp % column_warps * own_tiles
        row_start, tile_start = starts(lane)
        own_rows_at = shared_address(words, own_stages + warp_row * CHUNK_WORDS + row_start)
        own_tiles_at = shared_address(words, own_stages + row_words + warp_tile * TILE_WORDS + tile_start)
        kind = int32(plan[KIND])
        h_shift = int32(kind == GRU or kind == GRU_RESET)  # noqa: PLR1714, SIM109  # Numba makes a loop of `in`
        column = thread % units
        unit = cuda.blockIdx.x * units + column
        memory, outcome = Memory(values, state, operands, work), outcome_of(plan)
        present = int32(min(rows, count - first_row))
        limit = present if unit < plan[UNITS_OF] else int32(0)
        of_block = Rows(rows_at, batch[INPUTS_AT], first_row, first, now, limit)
        if thread < present:  # no shape has more rows than threads
            keep_places(kept, thread, places_in(batch, of_block, outcome, thread))
        cuda.syncthreads()
        own_row, none = thread // units, np.int64(0)
        own_number = first_row - first + own_row
        places = Places(none, none, none, none, none)
        if looks_early and own_row < limit:
            places = meet(memory, outcome, kept, own_row, own_number, unit, known)
        if in_parts and quantised and limit > 0:
            if own_x > 0:
                read_column_scales(values, plan[X_WEIGHT_SCALES], 0, unit, x_scales)
            if own_h > 0:
                read_column_scales(values, plan[H_WEIGHT_SCALES], h_shift, unit, h_scales)
        stage, free = int32(0), int32(ahead * stage_size)
        fetched, done = int32(ahead), int32(0)
        ends = int32((own_x if own_x > 0 else own_h) // quarters)
        while done < total:
            if fetched == own_x:
                chunk = int32(0)
                if not looks_early:  # there were no registers to keep them in
                    h_chunks = plan[H_CHUNKS]
                    h_tiles = plan[H_WEIGHTS] + first_tile * h_chunks * TILE_WORDS
                aim_tiles(tile_sources, member, weights, h_tiles, tiles, group * own_h, h_chunks)
                for index in range(own_row_pieces):
                    sources[index] = h_sources[index]
            # Turns without a decision: until a quarter ends, or the last chunk of x, or of all, is fetched.
            fetches, until = fetched < total, ends
            if fetches:
                until = min(ends, int32(done + (own_x if fetched < own_x else total) - fetched))
            fetched = int32(fetched + until - done)
            while done < until:
                wait()
                if one_warp:
                    sync_warp()
                else:
                    cuda.syncthreads()
                if fetches:
                    fetch_rows(words, rows_to + free, operands, sources, room, chunk)
                    fetch_tiles(words, tiles_to + free, member, weights, tile_sources, chunk)
                commit()
                multiply(words, own_rows_at + stage, own_tiles_at + stage, sums)
                free = stage
                stage = int32(stage + stage_size)
                if stage == stages * stage_size:
                    stage = int32(0)
                chunk, done = int32(chunk + 1), int32(done + 1)
            if done < ends:
                continue
            if in_parts:
                sync_warp()  # the stages are free when h ends
                put_part(numbers, own_stages + (x_part if ends <= own_x else 0), lane, sums)
                for index in range(own_sums):
                    sums[index] = zero
            else:
                first_scale, shift, scale_at = int32(0), int32(0), plan[X_WEIGHT_SCALES]
                if ends > own_x:
                    first_scale, shift, scale_at = int32(rows), h_shift, plan[H_WEIGHT_SCALES]
                scale_at += first_tile * UNITS
                fold(
                    *(numbers, sums_at, shift, warp_row, warp_tile, lane, sums, scales, first_scale),
                    *(values, scale_at, tiles),
                )
            ends = int32(ends + own_h // quarters if done >= own_x else ends + own_x // quarters)
        if not looks_early:
            outcome = outcome_of(plan)  # likewise
        if not looks_early and own_row < limit:
            places = meet(memory, outcome, kept, own_row, own_number, unit, known)
        cuda.syncthreads()
        phases = own_x > 0, own_h > 0, h_shift
        scatter(
            *(memory, outcome, batch, of_block, unit, kept, places, known, numbers, sums_at, phases),
            *(scales, x_scales, h_scales),
        )

    return bounded_kernel(step, threads, shape.held)
