"""One phase of a step: the same work for every block of a matrix, by one thread or by several.

In a phase of a cell, a block's products are turned into new state at once, while they are in the first-level
cache; a linear phase stores them. No block needs another: any thread may do any block, in any order.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.cpu import cells
from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.intrinsics import intrinsic_of
from keepgate_kernels.cpu.matmul import LINE, ROWS, UNROLL
from keepgate_kernels.cpu.memory import int64s
from keepgate_kernels.cpu.native import CHUNK, FEWEST_VECTORS, MOST_VECTORS, PRODUCTS, STEP_BYTES, call_eight
from keepgate_kernels.cpu.plan import ABSENT, CIFG, GRU, LSTM, MATRIX, RNN_RELU, RNN_TANH
from keepgate_kernels.cpu.rows import copy
from keepgate_kernels.cpu.simd import FLOAT_BYTES
from keepgate_kernels.jit import part

TILE = 64
"""Rows of a tile: pairs of lane and step that share one pass over the weights."""

LANES = RUNG.lanes
VECTOR_BYTES = LANES * FLOAT_BYTES
BUFFER_ROW = MOST_VECTORS * VECTOR_BYTES
"""Bytes of one row's sums of one block."""
LATER_STARTS = TILE * (BUFFER_ROW + 8)
OWN_BYTES = TILE * (BUFFER_ROW + 16)
"""A thread's own memory: sums of up to TILE pairs of block and row, then twice int64 [TILE], what the sums of
those pairs start from, and those of later chunks of k."""

MOST_BLOCKS = 8
"""Blocks of a group; more would keep a second thread from its share."""

LINEAR = -1

PHASE = np.dtype(
    [
        ("kind", "<i8"),
        ("rows", "<i8"),
        ("native", "<i8"),
        ("weights", "<i8"),
        ("x", MATRIX),
        ("x_rows", "<i8"),
        ("x_stride", "<i8"),
        ("h", MATRIX),
        ("h_rows", "<i8"),
        ("h_stride", "<i8"),
        ("starts", "<i8"),
        ("block", "<i8"),
        ("units", "<i8"),
        ("options", "<i8"),
        ("before", "<i8"),
        ("cells", "<i8"),
        ("out", "<i8"),
        ("out_stride", "<i8"),
        ("backwards", "<i8"),
    ]
)
"""kind: of the cell, or LINEAR. native: address of `native`'s table. weights: address of the packed weights.

x: an input product to add first, or its offset is ABSENT. h: the product that every phase has.
x_rows, h_rows: address of converted rows; x_stride, h_stride: bytes from one to the next.
starts: address of int64 [rows], the addresses of what sums start from; block: float32 numbers of it a block.
units: vectors of units in all. options: address of peepholes and clip, or ABSENT. before, cells: addresses of
int64 [rows], the addresses of h and c. out: in a phase of a cell, address of int64 [rows], the addresses of
the new h, which may be those of `before`; in a linear phase, address of float32 rows of outputs, out_stride
bytes from one to the next.
backwards: 1 if blocks are taken last first, and the next to prefetch lies before."""


_copy = intrinsic_of(copy)
_rnn_tanh, _rnn_relu = intrinsic_of(cells.rnn_tanh), intrinsic_of(cells.rnn_relu)
_lstm, _lstm_with_options = intrinsic_of(cells.lstm), intrinsic_of(cells.lstm_with_options)
_cifg, _cifg_with_options = intrinsic_of(cells.cifg), intrinsic_of(cells.cifg_with_options)
_gru = intrinsic_of(cells.gru)


@part(inline=True)
def _share(rows):
    """Rows of the next tile: full tiles, but the last two share alike, for a thin tile wastes its weights."""
    if rows <= ROWS:
        return rows
    return ROWS if rows >= 2 * ROWS else (rows + 1) // 2


@part()
def _multiply(phase, matrix, block, x, x_stride, starts, out, out_stride, own):
    """out[r] = starts[r] + x[r] W for the phase's rows and one block of a matrix."""
    weights = phase.weights + matrix.offset + block * matrix.stride
    ahead = weights - matrix.stride if phase.backwards else weights + matrix.stride
    table = int64s(phase.native, PRODUCTS)
    if phase.rows <= ROWS or matrix.steps <= table[CHUNK]:
        _multiply_chunk(phase, matrix, weights, matrix.steps, x, x_stride, starts, out, out_stride, ahead)
        return
    done, steps = 0, table[CHUNK]
    while done < matrix.steps:
        steps = min(steps, matrix.steps - done)
        size = matrix.stride // matrix.steps * steps
        if done + steps < matrix.steps:
            _multiply_chunk(
                phase, matrix, weights, steps, x, x_stride, starts, out, out_stride, weights + size
            )
        else:
            _multiply_chunk(phase, matrix, weights, steps, x, x_stride, starts, out, out_stride, ahead)
        done += steps
        weights += size
        x += steps * table[STEP_BYTES]
        starts = own + LATER_STARTS
        later = int64s(starts, phase.rows)
        for r in range(phase.rows):
            later[r] = out + r * out_stride


@part()
def _multiply_chunk(phase, matrix, weights, steps, x, x_stride, starts, out, out_stride, ahead):
    """The same for `steps` groups of k, whose weights begin at `weights`."""
    products = int64s(phase.native + 8 * PRODUCTS, (MOST_VECTORS - FEWEST_VECTORS + 1) * ROWS)
    total, first = phase.rows, (matrix.vectors - FEWEST_VECTORS) * ROWS - 1
    row = 0
    while row < total:
        rows = _share(total - row)
        a, s, o = x + row * x_stride, starts + 8 * row, out + row * out_stride
        call_eight(products[first + rows], a, x_stride, weights, steps, s, o, out_stride, ahead)
        row += rows
        ahead += steps // UNROLL * 2 * LINE


@part(inline=True)
def group_size(rows):
    """Blocks to multiply before the gates of all of them: with few rows, gates one at a time leave the
    processor waiting for each other's results."""
    return max(1, min(MOST_BLOCKS, TILE // rows))


@part()
def run_blocks(phase, first, last, own):
    """Do blocks [first, last) of a phase, at most `group_size`. own: address of the thread's OWN_BYTES."""
    blocks = last - first
    for index in range(blocks):
        block = last - 1 - index if phase.backwards else first + index
        _sum_block(phase, block, own, (block - first) * phase.rows)
    if phase.kind in (RNN_TANH, RNN_RELU):
        _rnn(phase, first, last, own)
    elif phase.kind != LINEAR:
        for block in range(first, last):
            _gates(phase, block, own, (block - first) * phase.rows)


@part()
def _sum_block(phase, block, own, place):
    """Sums of a block, those of a cell into the thread's own rows from `place` on."""
    rows = phase.rows
    sums, starts = own + place * BUFFER_ROW, own + TILE * BUFFER_ROW + 8 * place
    places, given = int64s(starts, rows), int64s(phase.starts, rows)
    offset = block * phase.block * FLOAT_BYTES
    for r in range(rows):
        places[r] = given[r] + offset
    if phase.kind == LINEAR:
        out = phase.out + offset
        _multiply(phase, phase.h, block, phase.h_rows, phase.h_stride, starts, out, phase.out_stride, own)
        return
    if phase.x.offset != ABSENT:
        if phase.kind == GRU:  # what h gives to n starts from its bias; the product with x leaves it alone
            for r in range(rows):
                from_h = 3 * VECTOR_BYTES
                _copy(places[r] + from_h, sums + r * BUFFER_ROW + from_h, LANES)
        _multiply(phase, phase.x, block, phase.x_rows, phase.x_stride, starts, sums, BUFFER_ROW, own)
        for r in range(rows):
            places[r] = sums + r * BUFFER_ROW
    if phase.kind == GRU:  # what x gives to n is no product with h
        for r in range(rows):
            places[r] += VECTOR_BYTES
        sums += VECTOR_BYTES
    _multiply(phase, phase.h, block, phase.h_rows, phase.h_stride, starts, sums, BUFFER_ROW, own)


@part()
def _gates(phase, block, own, first):
    """Sums of a block, in the thread's own rows from `first` on, to new state."""
    kind, rows, options = phase.kind, phase.rows, phase.options
    unit = block * VECTOR_BYTES
    before, cell, out = int64s(phase.before, rows), int64s(phase.cells, rows), int64s(phase.out, rows)
    starts = int64s(own + TILE * BUFFER_ROW + 8 * first, rows)
    sums = own + first * BUFFER_ROW
    if kind == LSTM and options == ABSENT:
        for r in range(rows):
            _lstm(sums + r * BUFFER_ROW, cell[r] + unit, out[r] + unit)
    elif kind == LSTM:
        for r in range(rows):
            _lstm_with_options(sums + r * BUFFER_ROW, cell[r] + unit, out[r] + unit, options + 4 * unit)
    elif kind == CIFG and options == ABSENT:
        for r in range(rows):
            _cifg(sums + r * BUFFER_ROW, cell[r] + unit, out[r] + unit)
    elif kind == CIFG:
        for r in range(rows):
            _cifg_with_options(sums + r * BUFFER_ROW, cell[r] + unit, out[r] + unit, options + 3 * unit)
    else:
        for r in range(rows):
            from_h = sums + r * BUFFER_ROW + VECTOR_BYTES
            _gru(starts[r] - VECTOR_BYTES, from_h, before[r] + unit, out[r] + unit)


@part()
def _rnn(phase, first, last, own):
    """The units of blocks [first, last) of an RNN, as many vectors as there are sums."""
    vectors, rows = phase.h.vectors, phase.rows
    out = int64s(phase.out, rows)
    for block in range(first, last):
        for r in range(rows):
            h = out[r] + block * vectors * VECTOR_BYTES
            sums = own + ((block - first) * rows + r) * BUFFER_ROW
            for vector in range(min(vectors, phase.units - block * vectors)):
                place = vector * VECTOR_BYTES
                if phase.kind == RNN_TANH:
                    _rnn_tanh(sums + place, h + place)
                else:
                    _rnn_relu(sums + place, h + place)
