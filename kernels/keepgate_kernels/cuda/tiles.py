"""How the work of a product is divided, and the numbers that the layouts of kernels and packing share.

Letters, beside those of `spec`: a *block* is eight units; a *tile* of weights is the eight columns of one
gate of a block; a *chunk* is 64 bytes of k: 16 float32, 32 bfloat16 or 64 int8 numbers. Every sum is made
of four parts, one for each quarter of k, each in ascending order of chunks, added in the order of the
quarters: on that, and on nothing else, its bits depend. So a quarter may be a warp's, or all four one
warp's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

WARP = 32
QUARTERS = 4
UNITS = 8
"""Units of a block, columns of a tile of weights: n of mma.m16n8."""
ROWS = 16
"""m of mma.m16n8."""
CHUNK_BYTES = 64
CHUNK_WORDS = 16
TILE_WORDS = UNITS * CHUNK_WORDS
"""A tile's weights in one chunk."""
KEPT = 4
"""int64 numbers that a thread block keeps of each of its rows: see `places`."""
ROW_BYTES = KEPT * 8 + 2 * 4
"""Of shared memory, in which they lie, with int8's scales of x and of h."""

ELEMENT: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "bf16": np.dtype("<u2"), "int8": np.dtype("i1")}
"""How rows are held that a product reads."""


def chunk_of(precision: str) -> int:
    """Numbers of k in a chunk."""
    return CHUNK_BYTES // ELEMENT[precision].itemsize


def padded_k(width: int, precision: str) -> int:
    """The next multiple of four chunks: a quarter is whole chunks."""
    multiple = QUARTERS * chunk_of(precision)
    return -(-width // multiple) * multiple


def blocks_of(units: int) -> int:
    """Blocks that hold so many units."""
    return -(-units // UNITS)


class Shape(NamedTuple):
    """How the warps of a thread block share its tile.

    split: thread groups that each take a quarter of k, or 1. row_warps, column_warps: warps of a group, down
    and across. row_tiles: tiles of 16 rows of a warp. blocks: (gates, blocks of units of a warp). stages:
    chunks in shared memory, on their way or in use. held: thread blocks that a multiprocessor is to have
    registers for.
    """

    name: str
    split: int
    row_warps: int
    column_warps: int
    row_tiles: int
    blocks: tuple[tuple[int, int], ...]
    stages: int
    held: int

    @property
    def rows(self) -> int:
        """Rows of a thread block's tile."""
        return self.row_warps * self.row_tiles * ROWS

    @property
    def group_threads(self) -> int:
        """Threads that work on the same chunks."""
        return self.row_warps * self.column_warps * WARP

    @property
    def threads(self) -> int:
        """Threads of a thread block."""
        return self.split * self.group_threads

    def blocks_of(self, gates: int) -> int:
        """Blocks of units of a warp."""
        return dict(self.blocks)[gates]

    def blocks_across(self, gates: int) -> int:
        """Blocks of units of a thread block's tile."""
        return self.column_warps * self.blocks_of(gates)

    def stage_words(self, gates: int) -> int:
        """Words of one chunk of rows and weights, for one thread group."""
        return self.rows * CHUNK_WORDS + self.blocks_across(gates) * gates * TILE_WORDS

    def sum_stride(self, gates: int) -> int:
        """Words from one row of sums to the next; 8 more than a multiple of 32 words keeps banks apart."""
        return sum_groups(gates) * self.blocks_across(gates) * UNITS + 8

    def sum_words(self, gates: int) -> int:
        """Words of all sums of a thread block; of those of a quarter."""
        return self.rows * self.sum_stride(gates)

    def x_part(self, gates: int) -> int:
        """Where a thread group's sums of a quarter of x lie, in words behind its stages; those of h take the
        stages' place when all is multiplied."""
        return max(self.stages * self.stage_words(gates), self.sum_words(gates))

    def group_words(self, gates: int) -> int:
        """Shared memory of a thread group: stages, and sums of x if its quarter is not all of it."""
        if self.split == 1:
            return self.stages * self.stage_words(gates)
        return self.x_part(gates) + self.sum_words(gates)

    def shared_bytes(self, gates: int) -> int:
        """Dynamic shared memory of a thread block: thread groups, then the sums of one that takes all
        quarters."""
        return 4 * (self.split * self.group_words(gates) + self.sum_words(gates) * (self.split == 1))


def sum_groups(gates: int) -> int:
    """Sums of a unit: the GRU's n has two, of which one is multiplied by the reset gate."""
    return 4 if gates > 1 else 1


SMALL = Shape("small", QUARTERS, 1, 1, 1, ((1, 4), (3, 1), (4, 1)), 5, 3)
"""For few rows: what counts is to read the weights with as many threads as there are."""
TALL = Shape("tall", QUARTERS, 1, 1, 4, ((1, 4), (3, 1), (4, 1)), 3, 2)
"""For some dozens of rows of a large layer: as many thread blocks, which read weights once for all rows."""
MEDIUM = Shape("medium", 1, 2, 2, 2, ((1, 4), (3, 1), (4, 1)), 6, 3)
"""For what is too little for LARGE to have a thread block on every multiprocessor."""
LARGE = Shape("large", 1, 4, 2, 2, ((1, 8), (3, 2), (4, 2)), 4, 1)
"""For many rows: what counts is how often what was read is used."""
HUGE = Shape("huge", 1, 4, 2, 4, ((1, 8), (3, 2), (4, 2)), 3, 1)
"""For very many rows, where a thread block has the shared memory of a Hopper."""
SHAPES = (SMALL, TALL, MEDIUM, LARGE, HUGE)
