"""Products of some rows with one block of packed weights, in registers from the first k to the last.

A block holds the weights of 3 or 4 vectors of outputs: for every `group` of k (see `dots`) the vectors one
after another. In front of integer weights stand, for every output, the weight's scale (float32) and the sum
that the zero point of x adds (int32), so that a block is one stream. A row of x starts with its scale.

Every output adds its products in ascending order of k, whatever the number of rows: that is what makes
results independent of the batch.
"""

from __future__ import annotations

from llvmlite import ir

from keepgate_kernels.cpu.dots import Dot
from keepgate_kernels.cpu.simd import I32, I64, Body, Emitter, Floats

ROW_HEADER = 64
"""Bytes in front of a row of x: its scale, and padding to a cache line."""

UNROLL = 4
"""Steps of k in an iteration; padded sizes are multiples of 16, so of 4 groups of 4."""

LINE = 64
ROWS = 6
"""Rows of a full tile: 6 rows of 4 vectors are 24 of 32 registers; 4 hold weights, 1 a piece of x."""


def header_bytes(dot: Dot, columns: int) -> int:
    """Bytes in front of a block's weights."""
    return 8 * columns if dot.integer else 0


def product(dot: Dot, rows: int, vectors: int) -> Body:
    """Code of out[r] = starts[r] + x[r] W for `rows` rows and a block of `vectors` vectors.

    x: rows `x_stride` bytes apart. weights: the block. steps: groups of k, a multiple of UNROLL. starts:
    int64 [rows], addresses of float32 rows, which may be those of out. out: float32 rows `out_stride` bytes
    apart. ahead: an address to prefetch from, two lines an iteration; what lies there is needed soon.
    """

    def body(
        e: Emitter,
        x: ir.Value,
        x_stride: ir.Value,
        weights: ir.Value,
        steps: ir.Value,
        starts: ir.Value,
        out: ir.Value,
        out_stride: ir.Value,
        ahead: ir.Value,
    ) -> None:
        b = e.builder
        columns = vectors * e.lanes
        vector_bytes = e.lanes * dot.group * dot.w_bits // 8
        rows_x = [b.add(x, b.mul(x_stride, I64(r))) for r in range(rows)]
        rows_start = [e.load_as(I64, e.offset(starts, 8 * r)) for r in range(rows)]
        first = e.offset(weights, header_bytes(dot, columns))
        tiles = [(r, v) for r in range(rows) for v in range(vectors)]
        if dot.integer:
            offsets = e.offset(weights, 4 * columns)
            sums = [e.load_as(e.vector(I32), e.offset(offsets, v * e.vector_bytes)) for _, v in tiles]
        else:
            sums = [e.load(rows_start[r], v).value for r, v in tiles]

        # Integers may be added in any order: with few rows a second set of sums halves the wait for the last.
        sets = 2 if dot.integer and len(tiles) <= vectors else 1
        if sets == 2:
            sums += [e.integers(0)] * len(tiles)

        def iteration(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
            *totals, address, wanted = values
            e.prefetch(wanted)
            e.prefetch(e.offset(wanted, LINE))
            place = b.mul(index, I64(dot.group * dot.x_bytes))
            for step in range(UNROLL):
                at = step * vectors * vector_bytes
                for part in range(dot.parts):
                    w = [
                        dot.load_w(e, e.offset(address, at + v * vector_bytes), part) for v in range(vectors)
                    ]
                    for r in range(rows):
                        first_k = e.offset(
                            b.add(rows_x[r], place), ROW_HEADER + step * dot.group * dot.x_bytes
                        )
                        x_part = dot.load_x(e, first_k, part)
                        for v in range(vectors):
                            n = step % sets * len(tiles) + r * vectors + v
                            totals[n] = dot.add(e, totals[n], w[v], x_part)
            return [*totals, e.offset(address, UNROLL * vectors * vector_bytes), e.offset(wanted, 2 * LINE)]

        *sums, _, _ = e.loop(I64(0), steps, UNROLL, [*sums, first, ahead], iteration)
        if sets == 2:
            sums = [
                b.add(one, other) for one, other in zip(sums[: len(tiles)], sums[len(tiles) :], strict=True)
            ]
        for n, (r, v) in enumerate(tiles):
            result = Floats(e, sums[n])
            if dot.integer:
                scale = e.broadcast(rows_x[r]) * e.load(weights, v)
                result = e.fma(e.from_integers(sums[n]), scale, e.load(rows_start[r], v))
            e.store(result, b.add(out, b.mul(out_stride, I64(r))), v)

    body.__name__ = f"product_{rows}x{vectors}"
    return body
