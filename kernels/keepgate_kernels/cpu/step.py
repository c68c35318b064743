"""One jitted call for a whole batch: gather, products, gates, head, draw, scatter.

Lanes are taken in tiles, so that a tile's accumulators stay in L2 while the weights go by once for all of
its lanes. No arithmetic of a lane depends on the tile it is in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu import cells
from keepgate_kernels.cpu.matmul import add_product
from keepgate_kernels.jit import entry, part
from keepgate_kernels.lanes import Batch
from keepgate_kernels.sampling import draw, log_normaliser
from keepgate_kernels.slots import State
from keepgate_kernels.weights import (
    ABSENT,
    BIAS,
    CIFG,
    CLIP,
    EMBEDDED,
    FEATURES,
    FOLDED,
    GRU,
    GRU_RESET_BEFORE,
    H_COLUMNS,
    H_FIRST,
    H_OFFSET,
    HEAD_BIAS,
    HEAD_INNER,
    HEAD_OFFSET,
    HEAD_SIZE,
    HEAD_WIDTH,
    HIDDEN,
    INNER,
    INPUT_KIND,
    INPUT_OFFSET,
    INPUT_SIZE,
    INPUT_WIDTH,
    KIND,
    LSTM,
    OUTPUT,
    PEEPHOLE,
    RNN_RELU,
    RNN_TANH,
    SECOND,
    WIDTH,
    X_COLUMNS,
    X_OFFSET,
    Weights,
)

TILE = 32
"""Lanes a tile: 32 rows of accumulators of a 512-unit LSTM are 256 KiB, a quarter of L2."""


class Scratch(NamedTuple):
    """Work space of one tile, float32 but for the indices; contents mean nothing between calls.

    sums [TILE, widest accumulators]; x [TILE, widest input]: a layer's input, then its output; h
    [TILE, widest P]: h before the step; wide [TILE, widest H]: h before the projection, or r h; logits
    [TILE, padded N]; powers [N]; heap int64 [N]; live int64 [TILE]: the lanes at work.
    """

    sums: NDArray[np.float32]
    x: NDArray[np.float32]
    h: NDArray[np.float32]
    wide: NDArray[np.float32]
    logits: NDArray[np.float32]
    powers: NDArray[np.float32]
    heap: NDArray[np.int64]
    live: NDArray[np.int64]


def make_scratch(plan: NDArray[np.int64]) -> Scratch:
    """Work space for a model's plan."""
    layers, head = plan[1:-1], plan[-1]
    widest = int(layers[:, [INNER, OUTPUT, HIDDEN]].max())

    def rows(width: int) -> NDArray[np.float32]:
        return np.zeros((TILE, width), np.float32)

    return Scratch(
        rows(int(layers[:, WIDTH].max())),
        rows(widest),
        rows(widest),
        rows(widest),
        rows(int(head[HEAD_WIDTH])),
        np.zeros(int(head[HEAD_SIZE]), np.float32),
        np.zeros(int(head[HEAD_SIZE]), np.int64),
        np.zeros(TILE, np.int64),
    )


@part()
def _start_sums(weights, first_layer, row, batch, step, rows, scratch):
    """Sums of a layer from its bias; in layer 0, from the token's folded row where there is one."""
    width, kind = row[WIDTH], weights.plan[0, INPUT_KIND]
    for r in range(rows):
        offset = row[BIAS]
        if first_layer and kind == FOLDED:
            token = batch.tokens[batch.lanes[scratch.live[r]].offset + step]
            offset = weights.plan[0, INPUT_OFFSET] + np.int64(token) * width
        scratch.sums[r, :width] = weights.flat[offset : offset + width]


@part()
def _gather_inputs(weights, batch, step, rows, scratch):
    """Input rows of layer 0, unless they are folded into its sums."""
    head = weights.plan[0]
    width = head[INPUT_WIDTH]
    for r in range(rows):
        place = batch.lanes[scratch.live[r]].offset + step
        if head[INPUT_KIND] == EMBEDDED:
            offset = head[INPUT_OFFSET] + np.int64(batch.tokens[place]) * width
            scratch.x[r, :width] = weights.flat[offset : offset + width]
        elif head[INPUT_KIND] == FEATURES:
            size = head[INPUT_SIZE]
            scratch.x[r, :size] = batch.features[place]
            scratch.x[r, size:width] = np.float32(0.0)


@part()
def _gates(weights, row, r, c, scratch):
    """Sums of lane r to its new h (scratch.x[r]) and, in place, c."""
    kind, hidden, output = row[KIND], row[HIDDEN], row[OUTPUT]
    sums, h_before, h = scratch.sums[r, : row[WIDTH]], scratch.h[r, :output], scratch.x[r, :output]
    if kind == RNN_TANH:
        cells.rnn_tanh(sums, h)
    elif kind == RNN_RELU:
        cells.rnn_relu(sums, h)
    elif kind == GRU:
        cells.gru(sums, h_before, h)
    elif kind == GRU_RESET_BEFORE:
        cells.gru_reset_before(sums, h_before, h)
    else:
        peephole, gates = row[PEEPHOLE], sums.size // hidden
        if peephole != ABSENT:
            for gate in range(gates - 2):
                weight = weights.flat[peephole + gate * hidden : peephole + (gate + 1) * hidden]
                cells.add_peephole(sums[gate * hidden : (gate + 1) * hidden], weight, c)
        if kind == LSTM:
            cells.lstm_cell(sums, c)
        elif kind == CIFG:
            cells.cifg_cell(sums, c)
        if row[CLIP] != ABSENT:
            cells.clip(c, weights.flat[row[CLIP]])
        o = sums[(gates - 1) * hidden :]
        if peephole != ABSENT:
            offset = peephole + (gates - 2) * hidden
            cells.add_peephole(o, weights.flat[offset : offset + hidden], c)
        projected = row[SECOND] != ABSENT
        cells.cell_output(o, c, scratch.wide[r, :hidden] if projected else h)


@part()
def _second_product(weights, row, rows, scratch):
    """The product that waits for gates: R (r h) of the reset-before GRU."""
    hidden, columns = row[HIDDEN], row[WIDTH]
    for r in range(rows):
        cells.reset(scratch.sums[r, :columns], scratch.h[r, :hidden], scratch.wide[r, :hidden])
    add_product(scratch.wide, rows, hidden, weights.flat, row[SECOND], hidden, scratch.sums, 2 * hidden)


@part()
def _layer(weights, state, batch, layer, step, rows, scratch):
    """One layer for the live lanes: scratch.x holds its input before and its output h after."""
    row = weights.plan[1 + layer]
    hidden, output, flat = row[HIDDEN], row[OUTPUT], weights.flat
    _start_sums(weights, layer == 0, row, batch, step, rows, scratch)
    if row[X_OFFSET] != ABSENT:
        add_product(scratch.x, rows, row[INNER], flat, row[X_OFFSET], row[X_COLUMNS], scratch.sums, 0)
    for r in range(rows):
        slot = batch.lanes[scratch.live[r]].slot
        scratch.h[r, :output] = state.h[layer, slot, :output]
    add_product(scratch.h, rows, output, flat, row[H_OFFSET], row[H_COLUMNS], scratch.sums, row[H_FIRST])
    if row[KIND] == GRU_RESET_BEFORE:
        _second_product(weights, row, rows, scratch)
    has_cell = row[KIND] == LSTM or row[KIND] == CIFG
    for r in range(rows):
        slot = batch.lanes[scratch.live[r]].slot
        _gates(weights, row, r, state.c[layer, slot, : hidden if has_cell else 0], scratch)
    if has_cell and row[SECOND] != ABSENT:
        scratch.x[:rows, :output] = np.float32(0.0)
        add_product(scratch.wide, rows, hidden, flat, row[SECOND], output, scratch.x, 0)
    for r in range(rows):
        slot = batch.lanes[scratch.live[r]].slot
        state.h[layer, slot, :output] = scratch.x[r, :output]


@part()
def _head(weights, state, batch, rows, scratch):
    """Logits or outputs of the live lanes from the last layer's h, into scratch.logits."""
    row = weights.plan[-1]
    inner, width, bias = row[HEAD_INNER], row[HEAD_WIDTH], row[HEAD_BIAS]
    last = weights.plan.shape[0] - 3
    for r in range(rows):
        slot = batch.lanes[scratch.live[r]].slot
        scratch.h[r, :inner] = state.h[last, slot, :inner]
        scratch.logits[r, :width] = weights.flat[bias : bias + width]
    add_product(scratch.h, rows, inner, weights.flat, row[HEAD_OFFSET], width, scratch.logits, 0)


@part()
def _score(weights, state, batch, first, last, step, scratch):
    """Log-probability of the scoring lanes' next input, given the state before it."""
    rows = 0
    for lane in range(first, last):
        if batch.lanes[lane].score and batch.lanes[lane].steps > step:
            scratch.live[rows] = lane
            rows += 1
    if rows == 0:
        return
    _head(weights, state, batch, rows, scratch)
    size = weights.plan[-1, HEAD_SIZE]
    for r in range(rows):
        logits = scratch.logits[r, :size]
        largest, log_sum = log_normaliser(logits, scratch.powers)
        place = batch.lanes[scratch.live[r]].offset + step
        batch.scores[place] = logits[batch.tokens[place]] - largest - log_sum


@part()
def _predict(weights, state, batch, first, last, scratch):
    """Head and draw for the predicting lanes."""
    rows = 0
    for lane in range(first, last):
        if batch.lanes[lane].predict:
            scratch.live[rows] = lane
            rows += 1
    if rows == 0:
        return
    _head(weights, state, batch, rows, scratch)
    size = weights.plan[-1, HEAD_SIZE]
    draws = weights.plan[0, INPUT_KIND] != FEATURES
    for r in range(rows):
        record = batch.lanes[scratch.live[r]]
        logits = scratch.logits[r, :size]
        batch.values[scratch.live[r], :size] = logits
        if draws:
            token, log_probability = draw(logits, record.position, record, scratch.powers, scratch.heap)
            record.token = token
            record.log_probability = log_probability


@entry
def tick(weights: Weights, state: State, batch: Batch, count: int, scratch: Scratch) -> None:
    """Apply the inputs of lanes [0, count) and fill in their answers.

    The state is updated in place for the lanes' slots; a slot may be in one lane only. scratch comes from
    `make_scratch(weights.plan)`.
    """
    layers = weights.plan.shape[0] - 2
    for first in range(0, count, TILE):
        last = min(first + TILE, count)
        longest = 0
        for lane in range(first, last):
            longest = max(longest, batch.lanes[lane].steps)
        for step in range(longest):
            _score(weights, state, batch, first, last, step, scratch)
            rows = 0
            for lane in range(first, last):
                if batch.lanes[lane].steps > step:
                    scratch.live[rows] = lane
                    rows += 1
            _gather_inputs(weights, batch, step, rows, scratch)
            for layer in range(layers):
                _layer(weights, state, batch, layer, step, rows, scratch)
        _predict(weights, state, batch, first, last, scratch)
