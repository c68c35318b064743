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

from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.ptx import (
    WORD,
    address_of,
    as_float,
    copy16,
    load4,
    mma_bf16,
    mma_int8,
    moved_on,
)
from keepgate_kernels.cuda.target import device_function, int32
from keepgate_kernels.cuda.tiles import CHUNK_WORDS, ROWS, TILE_WORDS, Shape, chunk_of
from keepgate_kernels.cuda.warp import apart

QUADS = CHUNK_WORDS // 4
PIECE = 4 * WORD
"""What an address in shared memory grows by from one piece of 16 bytes to the next."""


def row_pieces(shape: Shape) -> int:
    """Pieces of 16 bytes of a chunk of rows that a thread copies: piece `index * threads + member`."""
    return shape.rows * QUADS // shape.group_threads


def tile_pieces(gates: int, shape: Shape) -> int:
    """Likewise of a chunk of tiles; threads with a high number may have one less."""
    return -(-shape.blocks_across(gates) * gates * TILE_WORDS // 4 // shape.group_threads)


def make_fetch_rows(precision: str, shape: Shape) -> Any:
    """fetch_rows(words, to, operands, sources, room, chunk).

    Starts copying the thread's pieces of a chunk of rows, the first to the address `to` in `words`. sources:
    the address in `operands` of each piece of chunk 0. room: int32, how many rows there are from that of the
    first piece on; zeros stand for the others. chunk: int32.
    """
    threads, pieces, chunk_size = shape.group_threads, row_pieces(shape), chunk_of(precision)
    rows_apart = threads // QUADS

    @device_function
    def fetch_rows(words: Any, to: Any, operands: Any, sources: Any, room: Any, chunk: Any) -> None:
        for index in range(pieces):
            source = moved_on(operands, sources[index], chunk * chunk_size)
            copy16(words, to + index * threads * PIECE, operands, source, room, int32(index * rows_apart))

    return fetch_rows


def make_fetch_tiles(gates: int, shape: Shape) -> Any:
    """fetch_tiles(words, to, member, weights, sources, chunk): likewise of tiles, by thread `member`."""
    threads, pieces = shape.group_threads, tile_pieces(gates, shape)
    all_pieces = shape.blocks_across(gates) * gates * TILE_WORDS // 4

    @device_function
    def fetch_tiles(words: Any, to: Any, member: Any, weights: Any, sources: Any, chunk: Any) -> None:
        for index in range(pieces):
            if (index + 1) * threads <= all_pieces or index * threads + member < all_pieces:
                source = moved_on(weights, sources[index], chunk * TILE_WORDS)
                copy16(words, to + index * threads * PIECE, weights, source, int32(1), int32(0))

    return fetch_tiles


def make_aim_tiles(gates: int, shape: Shape) -> Any:
    """aim_tiles(sources, member, weights, tiles_at, tiles, chunk, chunks).

    Sets the addresses in `weights` of the thread's pieces of a chunk of tiles. tiles_at: where the thread
    block's first tile begins, each tile having `chunks` chunks; tiles: how many there are. In place of the
    others stands the last, for sums that nobody reads.
    """
    threads, pieces, of_tile = shape.group_threads, tile_pieces(gates, shape), TILE_WORDS // 4

    @device_function
    def aim_tiles(
        sources: Any, member: Any, weights: Any, tiles_at: Any, tiles: Any, chunk: Any, chunks: Any
    ) -> None:
        for index in range(pieces):
            piece = index * threads + member
            tile = min(piece // of_tile, tiles - 1)
            place = tiles_at + (tile * chunks + chunk) * TILE_WORDS + piece % of_tile * 4
            sources[index] = address_of(weights, place)

    return aim_tiles


def make_starts(precision: str) -> Any:
    """starts(lane): (word of the warp's rows, word of its tiles) from which `multiply` has a lane read."""

    @device_function
    def of_mma(lane: Any) -> Any:
        own = lane // 4 * CHUNK_WORDS + lane % 4 * 4
        return own, own

    @device_function
    def of_fma(lane: Any) -> Any:
        return lane // 4 * CHUNK_WORDS, lane % 4 * (2 * CHUNK_WORDS + 4)

    return of_fma if precision == "fp32" else of_mma


def make_multiply(precision: str, gates: int, shape: Shape) -> Any:
    """multiply(words, rows_at, tiles_at, sums): add a chunk's products to a lane's sums.

    rows_at, tiles_at: the addresses in `words` from which the lane reads the warp's rows and tiles, see
    `make_starts`. sums: float32, or int32 in int8, [row tiles, tiles, 4].
    """
    row_tiles, tiles = shape.row_tiles, shape.blocks_of(gates) * gates
    mma = mma_int8 if precision == "int8" else mma_bf16
    words_of_rows, words_of_tiles = 8 * row_tiles, 4 * tiles
    half_tile_size, tile_size = ROWS // 2 * CHUNK_WORDS * WORD, TILE_WORDS * WORD

    @device_function
    def by_mma(words: Any, rows_at: Any, tiles_at: Any, sums: Any) -> None:
        a = cuda.local.array(words_of_rows, types.uint32)
        b = cuda.local.array(words_of_tiles, types.uint32)
        for row_tile in range(row_tiles):
            w, upper = row_tile * 8, rows_at + row_tile * 2 * half_tile_size
            a[w], a[w + 2], a[w + 4], a[w + 6] = apart(load4(words, upper))
            a[w + 1], a[w + 3], a[w + 5], a[w + 7] = apart(load4(words, upper + half_tile_size))
        for tile in range(tiles):
            v = tile * 4
            b[v], b[v + 1], b[v + 2], b[v + 3] = load4(words, tiles_at + tile * tile_size)
        for tile in range(tiles):
            for row_tile in range(row_tiles):
                v, w, s = tile * 4, row_tile * 8, (row_tile * tiles + tile) * 4
                c0, c1, c2, c3 = sums[s], sums[s + 1], sums[s + 2], sums[s + 3]
                c0, c1, c2, c3 = mma(c0, c1, c2, c3, a[w], a[w + 1], a[w + 2], a[w + 3], b[v], b[v + 1])
                w, v = w + 4, v + 2
                c0, c1, c2, c3 = mma(c0, c1, c2, c3, a[w], a[w + 1], a[w + 2], a[w + 3], b[v], b[v + 1])
                sums[s], sums[s + 1], sums[s + 2], sums[s + 3] = c0, c1, c2, c3

    @device_function
    def by_fma(words: Any, rows_at: Any, tiles_at: Any, sums: Any) -> None:
        a = cuda.local.array(words_of_rows, types.uint32)
        for quad in range(QUADS):
            for half_tile in range(2 * row_tiles):
                w, row = half_tile * 4, rows_at + half_tile * half_tile_size + quad * PIECE
                a[w], a[w + 1], a[w + 2], a[w + 3] = load4(words, row)
            for tile in range(tiles):
                # A chunk's address is a multiple of its size: this changes the quad, and no more.
                column = (tiles_at ^ quad * PIECE) + tile * tile_size
                b0, b1, b2, b3 = load4(words, column)
                d0, d1, d2, d3 = load4(words, column + CHUNK_WORDS * WORD)
                for half_tile in range(2 * row_tiles):
                    w, s = half_tile * 4, (half_tile // 2 * tiles + tile) * 4 + half_tile % 2 * 2
                    even, odd = sums[s], sums[s + 1]
                    x = as_float(a[w])
                    even, odd = cuda.fma(x, as_float(b0), even), cuda.fma(x, as_float(d0), odd)
                    x = as_float(a[w + 1])
                    even, odd = cuda.fma(x, as_float(b1), even), cuda.fma(x, as_float(d1), odd)
                    x = as_float(a[w + 2])
                    even, odd = cuda.fma(x, as_float(b2), even), cuda.fma(x, as_float(d2), odd)
                    x = as_float(a[w + 3])
                    even, odd = cuda.fma(x, as_float(b3), even), cuda.fma(x, as_float(d3), odd)
                    sums[s], sums[s + 1] = even, odd

    return by_fma if precision == "fp32" else by_mma
