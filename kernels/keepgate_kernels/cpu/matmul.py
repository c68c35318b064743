"""Products of a few rows with packed weights.

Weights [K, N] are packed (`weights.pack_matrix`) in blocks of up to `BLOCK` columns; in a block, eight rows
of the matrix follow one another, so that the weights are read as one stream, once for all rows of x.
Every output adds its K products in ascending order of k, one fused multiply-add each, whatever the number
of rows: that is what makes results independent of the batch.
"""

from __future__ import annotations

from keepgate_kernels.jit import FUSED, part

BLOCK = 512
"""Columns a block: eight rows of it (16 KiB) stay in L1 while the rows of x go by."""

UNROLL = 8
"""Rows of the matrix an iteration: one load and one store of the accumulators serve eight products."""


@part(FUSED)
def add_product(x, rows, inner, weights, offset, columns, out, first):
    """out[:rows, first:first + columns] += x[:rows, :inner] @ W.

    x: float32 [>=rows, >=inner]; W: packed at weights[offset:], [inner, columns], inner a multiple of
    UNROLL; out: float32 [>=rows, >=first + columns], not x.
    """
    for start in range(0, columns, BLOCK):
        width = min(BLOCK, columns - start)
        for k in range(0, inner, UNROLL):
            w0 = weights[offset : offset + width]
            w1 = weights[offset + width : offset + 2 * width]
            w2 = weights[offset + 2 * width : offset + 3 * width]
            w3 = weights[offset + 3 * width : offset + 4 * width]
            w4 = weights[offset + 4 * width : offset + 5 * width]
            w5 = weights[offset + 5 * width : offset + 6 * width]
            w6 = weights[offset + 6 * width : offset + 7 * width]
            w7 = weights[offset + 7 * width : offset + 8 * width]
            offset += UNROLL * width
            for row in range(rows):
                x0, x1, x2, x3 = x[row, k], x[row, k + 1], x[row, k + 2], x[row, k + 3]
                x4, x5, x6, x7 = x[row, k + 4], x[row, k + 5], x[row, k + 6], x[row, k + 7]
                sums = out[row, first + start : first + start + width]
                for n in range(width):
                    s = sums[n]
                    s += x0 * w0[n]
                    s += x1 * w1[n]
                    s += x2 * w2[n]
                    s += x3 * w3[n]
                    s += x4 * w4[n]
                    s += x5 * w5[n]
                    s += x6 * w6[n]
                    s += x7 * w7[n]
                    sums[n] = s
