"""Products of gathered rows with tiles of weights: what a thread group does with one chunk, by precision.

A stage in shared memory holds one chunk: rows [rows][16 words], then weights [tile][column][16 words]. A lane
holds four sums of each tile of 16 rows by 8 columns, in the layout of mma's accumulators (PTX ISA 8, 9.7.14)
in every precision: rows lane / 4 and lane / 4 + 8, columns 2 (lane % 4) and the next.

bf16, int8: a lane's 16 bytes of a row are its words of a in two mma, so k is taken in another order than it
lies in, alike in rows and weights. fp32: a lane multiplies whole rows, four k at a time; column n keeps its
quad q of k at quad q xor n / 2, so that lanes which read different columns meet no bank conflict.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keepgate_kernels.cuda.target import device_function
from keepgate_kernels.cuda.tiles import CHUNK_WORDS, ROWS, TILE_WORDS, Shape, chunk_of
from keepgate_kernels.cuda.warp import as_float, copy16, load4, mma_bf16, mma_int8
from numba import cuda

QUADS = CHUNK_WORDS // 4


def make_fetch_rows(precision: str, shape: Shape) -> Any:
    """fetch_rows(words, to, member, operands, places, first_place, chunk).

    Starts copying a chunk of every row to `to` in `words`, by thread `member` of its group. places: int64,
    from first_place on where each row begins in `operands`, or -1 for a row of zeros.
    """
    threads, pieces = shape.group_threads, shape.rows * QUADS // shape.group_threads
    chunk_size, piece_size = chunk_of(precision), chunk_of(precision) // QUADS

    @device_function
    def fetch_rows(
        words: Any, to: Any, member: Any, operands: Any, places: Any, first_place: Any, chunk: Any
    ) -> None:
        for index in range(pieces):
            piece = index * threads + member
            place = places[first_place + piece // QUADS]
            size = np.int32(16)
            source = place + chunk * chunk_size + piece % QUADS * piece_size
            if place < 0:
                size, source = np.int32(0), np.int64(0)
            copy16(words, to + piece * 4, operands, source, size)

    return fetch_rows


def make_fetch_weights(gates: int, shape: Shape) -> Any:
    """fetch_weights(words, to, member, weights, tiles_at, tiles, chunk, chunks).

    Likewise a chunk of every tile. tiles_at: where in `weights` the thread block's first tile begins, each
    tile having `chunks` chunks; tiles: how many there are, the rest being zeros.
    """
    threads, tile_pieces = shape.group_threads, TILE_WORDS // 4
    all_pieces = shape.blocks_across(gates) * gates * tile_pieces
    pieces = -(-all_pieces // threads)

    @device_function
    def fetch_weights(
        words: Any, to: Any, member: Any, weights: Any, tiles_at: Any, tiles: Any, chunk: Any, chunks: Any
    ) -> None:
        for index in range(pieces):
            piece = index * threads + member
            tile = piece // tile_pieces
            size = np.int32(16)
            source = tiles_at + (tile * chunks + chunk) * TILE_WORDS + piece % tile_pieces * 4
            if tile >= tiles:
                size, source = np.int32(0), np.int64(0)
            if piece < all_pieces:
                copy16(words, to + piece * 4, weights, source, size)

    return fetch_weights


def make_multiply(precision: str, gates: int, shape: Shape) -> Any:
    """multiply(words, rows_at, weights_at, lane, sums): add a chunk's products to a lane's sums.

    rows_at, weights_at: where the warp's rows and tiles begin in `words`. sums: float32, or int32 in int8,
    [row tiles, tiles, 4].
    """
    row_tiles, tiles = shape.row_tiles, shape.blocks_of(gates) * gates
    mma = mma_int8 if precision == "int8" else mma_bf16
    half_rows = ROWS // 2 * CHUNK_WORDS

    @device_function
    def by_mma(words: Any, rows_at: Any, weights_at: Any, lane: Any, sums: Any) -> None:
        own = lane // 4 * CHUNK_WORDS + lane % 4 * 4
        for tile in range(tiles):
            b0, b1, b2, b3 = load4(words, weights_at + tile * TILE_WORDS + own)
            for row_tile in range(row_tiles):
                upper = rows_at + row_tile * ROWS * CHUNK_WORDS + own
                a0, a2, a4, a6 = load4(words, upper)
                a1, a3, a5, a7 = load4(words, upper + half_rows)
                s = (row_tile * tiles + tile) * 4
                c0, c1, c2, c3 = sums[s], sums[s + 1], sums[s + 2], sums[s + 3]
                c0, c1, c2, c3 = mma(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1)
                c0, c1, c2, c3 = mma(c0, c1, c2, c3, a4, a5, a6, a7, b2, b3)
                sums[s], sums[s + 1], sums[s + 2], sums[s + 3] = c0, c1, c2, c3

    @device_function
    def by_fma(words: Any, rows_at: Any, weights_at: Any, lane: Any, sums: Any) -> None:
        group, pair = lane // 4, lane % 4
        for quad in range(QUADS):
            for tile in range(tiles):
                column = weights_at + tile * TILE_WORDS + 2 * pair * CHUNK_WORDS + (quad ^ pair) * 4
                b0, b1, b2, b3 = load4(words, column)
                d0, d1, d2, d3 = load4(words, column + CHUNK_WORDS)
                for half_tile in range(2 * row_tiles):
                    row = half_tile * (ROWS // 2) + group
                    a0, a1, a2, a3 = load4(words, rows_at + row * CHUNK_WORDS + quad * 4)
                    s = (half_tile // 2 * tiles + tile) * 4 + half_tile % 2 * 2
                    even, odd = sums[s], sums[s + 1]
                    x = as_float(a0)
                    even, odd = cuda.fma(x, as_float(b0), even), cuda.fma(x, as_float(d0), odd)
                    x = as_float(a1)
                    even, odd = cuda.fma(x, as_float(b1), even), cuda.fma(x, as_float(d1), odd)
                    x = as_float(a2)
                    even, odd = cuda.fma(x, as_float(b2), even), cuda.fma(x, as_float(d2), odd)
                    x = as_float(a3)
                    even, odd = cuda.fma(x, as_float(b3), even), cuda.fma(x, as_float(d3), odd)
                    sums[s], sums[s + 1] = even, odd

    return by_fma if precision == "fp32" else by_mma


def make_fold(precision: str, gates: int, shape: Shape) -> Any:
    """fold(words, sums_at, group_shift, warp_row, warp_tile, lane, sums, scales, first_scale, values, at,
    tiles).

    Adds a lane's sums of a quarter to those in shared memory, [row][group, unit], and clears them.
    group_shift: the group of sums that the first gate goes to. warp_row, warp_tile: the warp's first. scales:
    float32, from first_scale on those of the rows, and at `at` in values those of the columns of `tiles`
    tiles: for int8 alone.
    """
    row_tiles, tiles_of_warp = shape.row_tiles, shape.blocks_of(gates) * gates
    stride, units = shape.sum_stride(gates), shape.blocks_across(gates) * 8
    quantised = precision == "int8"
    zero = np.int32(0) if quantised else np.float32(0)

    @device_function
    def fold(
        words: Any,
        sums_at: Any,
        group_shift: Any,
        warp_row: Any,
        warp_tile: Any,
        lane: Any,
        sums: Any,
        scales: Any,
        first_scale: Any,
        values: Any,
        at: Any,
        tiles: Any,
    ) -> None:
        for tile_of_warp in range(tiles_of_warp):
            tile = warp_tile + tile_of_warp
            first = (tile % gates + group_shift) * units + tile // gates * 8 + 2 * (lane % 4)
            for column in range(2):
                scale = np.float32(1)
                if quantised:
                    scale = np.float32(0)
                    if tile < tiles:
                        scale = values[at + tile * 8 + 2 * (lane % 4) + column]
                for half_tile in range(2 * row_tiles):
                    row = warp_row + half_tile * (ROWS // 2) + lane // 4
                    s = (half_tile // 2 * tiles_of_warp + tile_of_warp) * 4 + half_tile % 2 * 2 + column
                    place = sums_at + row * stride + first + column
                    if quantised:
                        both = scales[first_scale + row] * scale
                        words[place] = cuda.fma(np.float32(sums[s]), both, words[place])
                    else:
                        words[place] = words[place] + sums[s]
                    sums[s] = zero

    return fold
