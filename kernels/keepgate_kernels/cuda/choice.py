"""Which shape a product takes: the one that an estimate of its time, in clocks, finds the fastest.

All shapes give the same bits, so an estimate that is off costs time and nothing else. It knows three limits:
what a multiprocessor reads (bytes under way over the time that they take, up to its port), what all of them
read of the L2 cache, and what it multiplies. Its constants are the vendor's where a document names any, and
reasoned where not; `make bench-cuda ARGS=--shapes` times every shape beside the one that is chosen.
"""

from __future__ import annotations

from typing import NamedTuple

from keepgate_kernels.cuda.tiles import (
    CHUNK_BYTES,
    ROW_BYTES,
    SHAPES,
    TILE_WORDS,
    UNITS,
    WARP,
    Shape,
    chunk_of,
)

PORT_BYTES = 64
"""A clock, from the L2 cache into one multiprocessor at the most."""
SHARE_BYTES = 24
"""The same when all read: of the 132 of an H200 5.6 TB/s at 1.755 GHz. Reasoned."""
READ_CLOCKS = 800
"""From the L2 cache, under load. Reasoned."""
FAR_CLOCKS = 1600
"""From memory, for weights that the L2 cache cannot keep from one step to the next. Reasoned."""
MULTIPLY_ADDS = {"fp32": 128, "bf16": 1024, "int8": 2048}
"""A clock and multiprocessor: FMA, and mma.sync on sm_80, of which a Hopper does somewhat more."""
BLOCK_CLOCKS = 3000
"""A thread block's begin and end: four trips to memory, one after the other, and what launches cost."""
UNIT_INSTRUCTIONS = 150
"""To make one unit's sums state: between an RNN's and an LSTM's. Reasoned."""
ISSUED = 4
"""Instructions of a warp that a multiprocessor begins in a clock."""
TILE_BYTES = TILE_WORDS * 4
RESERVED_BYTES = 1024
"""Of shared memory, in every thread block."""


class Device(NamedTuple):
    """Multiprocessors; bytes of shared memory of one of them, and that a thread block may have; of the L2
    cache."""

    multiprocessors: int
    shared_bytes: int
    most_shared_bytes: int
    cache_bytes: int


class Work(NamedTuple):
    """A product: gates, blocks of units, chunks of x and h together."""

    precision: str
    gates: int
    blocks: int
    chunks: int

    @property
    def weight_bytes(self) -> int:
        """Of all tiles."""
        return self.blocks * self.gates * self.chunks * TILE_BYTES


def fits(shape: Shape, gates: int, device: Device) -> bool:
    """Whether a thread block may have the shared memory that the shape takes."""
    return shape.shared_bytes(gates) <= device.most_shared_bytes


def clocks(shape: Shape, work: Work, rows: int, device: Device) -> float:
    """An estimate of the time that a product of so many rows takes."""
    across, down = -(-work.blocks // shape.blocks_across(work.gates)), -(-rows // shape.rows)
    blocks, tiles = across * down, shape.blocks_across(work.gates) * work.gates
    own = -(-blocks // device.multiprocessors)  # thread blocks of the busiest multiprocessor
    taken = shape.shared_bytes(work.gates) + shape.rows * ROW_BYTES + RESERVED_BYTES
    at_once = min(own, shape.held, max(1, device.shared_bytes // taken))
    row_bytes = min(rows, shape.rows) * CHUNK_BYTES  # rows that are not there are not read
    chunk_bytes = row_bytes + tiles * TILE_BYTES
    under_way = at_once * shape.split * (shape.stages - 1) * chunk_bytes
    size = work.chunks * chunk_bytes
    trip = READ_CLOCKS if work.weight_bytes < device.cache_bytes else FAR_CLOCKS
    reading = max(
        own * size / min(PORT_BYTES, under_way / trip),
        blocks * size / (SHARE_BYTES * device.multiprocessors),
    )
    products = shape.rows * tiles * UNITS * chunk_of(work.precision)
    multiplying = own * work.chunks * products / MULTIPLY_ADDS[work.precision]
    units = min(rows, shape.rows) * shape.blocks_across(work.gates) * UNITS
    finishing = own * units * UNIT_INSTRUCTIONS / (WARP * ISSUED)
    return max(reading, multiplying) + finishing + -(-own // at_once) * BLOCK_CLOCKS


def choices(work: Work, most_rows: int, device: Device) -> tuple[Shape, ...]:
    """The fastest shape for 1, 2, 4 and so on rows, up to `most_rows`."""
    fitting = [shape for shape in SHAPES if fits(shape, work.gates, device)]
    sizes = [1 << power for power in range((most_rows - 1).bit_length() + 1)]
    return tuple(min(fitting, key=lambda shape: clocks(shape, work, rows, device)) for rows in sizes)


def index_of(rows: int) -> int:
    """Where in `choices` the shape for so many rows stands."""
    return (rows - 1).bit_length()
