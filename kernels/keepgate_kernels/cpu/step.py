"""One jitted call for a whole batch: gather, products, gates, head, draw, scatter.

Lanes are taken in tiles, and the steps of a tile's lanes in chunks, so that up to TILE rows, pairs of lane
and step, share a pass over the weights. In a chunk of several steps the products with a layer's input are one
product of all rows; so are those of the head where every step is scored. No arithmetic of a row depends on
the tile it is in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.answers import answer, score
from keepgate_kernels.cpu.layers import keep_states, list_rows, run_head, run_layer
from keepgate_kernels.cpu.memory import int64s, records, uint32s
from keepgate_kernels.cpu.phase import TILE
from keepgate_kernels.cpu.plan import ENDS, FEATURES, LAYER
from keepgate_kernels.cpu.sharing import OPEN, help_until_closed, store
from keepgate_kernels.cpu.vectors import memory_at
from keepgate_kernels.cpu.workspace import NETWORK, WORK
from keepgate_kernels.jit import entry, part
from keepgate_kernels.lane import LANE
from keepgate_kernels.lanes import BATCH


@part(inline=True)
def _score(net, batch, work, rows):
    """Log-probability of the scoring lanes' inputs, each given the state before it."""
    lanes, places = int64s(work.row_lane, rows), int64s(work.row_place, rows)
    before, listed = int64s(work.before, rows), int64s(work.listed, TILE)
    size, width = net.ends[0].size, net.ends[0].width
    row = 0
    while row < rows:
        begin, count = row, 0
        while row < rows and count < work.head_rows:
            if batch.lanes[lanes[row]].score:
                listed[count] = before[row]
                count += 1
            row += 1
        if count == 0:
            return
        run_head(net, work, count)
        done = 0
        for scored in range(begin, row):
            lane = lanes[scored]
            if batch.lanes[lane].score:
                record, token = batch.lanes[lane], batch.tokens[places[scored]]
                logits = memory_at(work.logits + done * width * 4)
                score(record, memory_at(batch.pool), logits, size, places[scored] - record.offset, token)
                done += 1


@part(inline=True)
def _predict(net, batch, work, first, last, begin, end):
    """Head and draw for the predicting lanes whose last step is in [begin, end)."""
    latest, listed = int64s(work.latest, TILE), int64s(work.listed, TILE)
    after = int64s(work.after, TILE)
    size, width = net.ends[0].size, net.ends[0].width
    draws = net.ends[0].input_kind != FEATURES
    lane = first
    while lane < last:
        from_lane, count = lane, 0
        while lane < last and count < work.head_rows:
            record = batch.lanes[lane]
            if record.predict and begin < record.steps <= end:
                listed[count] = after[latest[lane - first]]
                count += 1
            lane += 1
        if count == 0:
            return
        run_head(net, work, count)
        done = 0
        for answered in range(from_lane, lane):
            record = batch.lanes[answered]
            if record.predict and begin < record.steps <= end:
                logits = memory_at(work.logits + done * width * 4)
                answer(record, memory_at(batch.pool), logits, size, draws, memory_at(work.answers))
                done += 1


@part(inline=True)
def _tile(net, batch, work, first, last):
    """All steps of the lanes [first, last), at most TILE."""
    longest = 0
    scores = False
    for lane in range(first, last):
        longest = max(longest, batch.lanes[lane].steps)
        scores = scores or batch.lanes[lane].score
    begin = 0
    while begin < longest:
        alive = 0
        for lane in range(first, last):
            if batch.lanes[lane].steps > begin:
                alive += 1
        steps = min(max(1, TILE // alive), longest - begin)
        rows = list_rows(batch, work, first, last, begin, steps)
        for index in range(net.depth):
            run_layer(net, batch, work, index, steps, first, steps == 1 and not scores)
            if index == net.depth - 1 and scores:
                _score(net, batch, work, rows)
            keep_states(net, batch, work, index, first, last)
        _predict(net, batch, work, first, last, begin, begin + steps)
        begin += steps


class Net(NamedTuple):
    """A NETWORK record, with arrays for what its addresses point to."""

    native: int
    weights: int
    layers: NDArray[np.void]
    ends: NDArray[np.void]
    depth: int
    h: int
    c: int
    h_stride: int
    c_stride: int
    slots: int


@part(inline=True)
def _open(address):
    record = records(address, 1, NETWORK)[0]
    layers = records(record.layers, record.depth, LAYER)
    ends = records(record.ends, 1, ENDS)
    return Net(
        record.native,
        record.weights,
        layers,
        ends,
        record.depth,
        record.h,
        record.c,
        record.h_stride,
        record.c_stride,
        record.slots,
    )


class Columns(NamedTuple):
    """A BATCH record, with arrays for lanes and tokens."""

    lanes: NDArray[np.void]
    tokens: NDArray[np.uint32]
    features: int
    pool: int


@part(inline=True)
def _columns(address, count):
    record = records(address, 1, BATCH)[0]
    return Columns(
        records(record.lanes, count, LANE),
        uint32s(record.tokens, record.inputs),
        record.features,
        record.pool,
    )


@entry
def tick(network: int, lanes: int, workspace: int, count: int) -> None:
    """Apply the inputs of lanes [0, count) and fill in their answers.

    Addresses of records: network of a NETWORK, lanes of a BATCH, workspace of a WORK, the calling
    thread's own. The state is updated in place for the lanes' slots; a slot may be in one lane only.
    """
    net, work = _open(network), records(workspace, 1, WORK)[0]
    batch = _columns(lanes, count)
    work.phase.weights, work.phase.native = net.weights, net.native
    for first in range(0, count, TILE):
        _tile(net, batch, work, first, min(first + TILE, count))
    if work.shared:
        store(work.control + OPEN, 0)


@entry
def assist(workspace: int, own: int) -> None:
    """Help with the shared step of another thread, whose work space this is, until it is over.

    own: address of `phase.OWN_BYTES` of the helping thread's.
    """
    work = records(workspace, 1, WORK)[0]
    help_until_closed(work.phase, own, work.control)
