"""Gates of one lane: accumulators to new state. Equations: `keepgate_kernels.reference`.

Shapes, all float32 and padded: sums [WIDTH] (gate pre-activations, in the blocks that `weights` lays out),
c [H], h_before and h [P]. `h` may not be `h_before`. Blocks are contiguous slices, so that every loop runs
over whole vectors.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.cpu.activations import sigmoid, tanh
from keepgate_kernels.jit import VECTOR_GATES, part

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@part(VECTOR_GATES)
def rnn_tanh(sums, h):
    """h = tanh(sums)."""
    for j in range(h.size):
        h[j] = tanh(sums[j])


@part(VECTOR_GATES)
def rnn_relu(sums, h):
    """h = max(sums, 0)."""
    for j in range(h.size):
        h[j] = max(sums[j], _ZERO)


@part(VECTOR_GATES)
def add_peephole(sums, weights, c):
    """sums += weights * c, elementwise."""
    for j in range(c.size):
        sums[j] += weights[j] * c[j]


@part(VECTOR_GATES)
def lstm_cell(sums, c):
    """c' = f c + i g, in place. Blocks of sums: i, f, g, o."""
    size = c.size
    i, f, g = sums[:size], sums[size : 2 * size], sums[2 * size : 3 * size]
    for j in range(size):
        c[j] = sigmoid(f[j]) * c[j] + sigmoid(i[j]) * tanh(g[j])


@part(VECTOR_GATES)
def cifg_cell(sums, c):
    """c' = f c + (1 - f) g, in place. Blocks of sums: f, g, o."""
    size = c.size
    f, g = sums[:size], sums[size : 2 * size]
    for j in range(size):
        forget = sigmoid(f[j])
        c[j] = forget * c[j] + (_ONE - forget) * tanh(g[j])


@part(VECTOR_GATES)
def clip(c, bound):
    """c = min(max(c, -bound), bound), in place."""
    for j in range(c.size):
        c[j] = min(max(c[j], -bound), bound)


@part(VECTOR_GATES)
def cell_output(o, c, h):
    """h = sigmoid(o) tanh(c), before any projection."""
    for j in range(c.size):
        h[j] = sigmoid(o[j]) * tanh(c[j])


@part(VECTOR_GATES)
def gru(sums, h_before, h):
    """Reset after the product. Blocks of sums: n from x, r, z, n from h."""
    size = h.size
    n_x, r, z, n_h = sums[:size], sums[size : 2 * size], sums[2 * size : 3 * size], sums[3 * size :]
    for j in range(size):
        n = tanh(n_x[j] + sigmoid(r[j]) * n_h[j])
        update = sigmoid(z[j])
        h[j] = (_ONE - update) * n + update * h_before[j]


@part(VECTOR_GATES)
def reset(sums, h_before, out):
    """out = sigmoid(r) h, what the GRU with the reset before the product multiplies. Blocks: r, z, n."""
    for j in range(out.size):
        out[j] = sigmoid(sums[j]) * h_before[j]


@part(VECTOR_GATES)
def gru_reset_before(sums, h_before, h):
    """Once R (r h) has been added to block n. Blocks of sums: r, z, n."""
    size = h.size
    z, n = sums[size : 2 * size], sums[2 * size : 3 * size]
    for j in range(size):
        update = sigmoid(z[j])
        h[j] = (_ONE - update) * tanh(n[j]) + update * h_before[j]
