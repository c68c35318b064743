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

from keepgate_kernels.cpu import cells
from keepgate_kernels.cpu.answers import answer, score
from keepgate_kernels.cpu.intrinsics import intrinsic_of
from keepgate_kernels.cpu.memory import float32s, int64s, records, uint32s
from keepgate_kernels.cpu.native import CONVERT_BOUNDED, CONVERT_UNBOUNDED, PRODUCTS, call_three
from keepgate_kernels.cpu.phase import LANES, LINEAR, TILE, VECTOR_BYTES
from keepgate_kernels.cpu.plan import ABSENT, EMBEDDED, ENDS, FEATURES, FOLDED, GRU_RESET_BEFORE, LAYER
from keepgate_kernels.cpu.rows import copy, is_finite
from keepgate_kernels.cpu.sharing import OPEN, help_until_closed, run_alone, run_shared, store
from keepgate_kernels.cpu.vectors import memory_at
from keepgate_kernels.jit import entry, part
from keepgate_kernels.lanes import LANE

_copy, _is_finite = intrinsic_of(copy), intrinsic_of(is_finite)
_reset, _gru_reset_before = intrinsic_of(cells.reset), intrinsic_of(cells.gru_reset_before)


@part(inline=True)
def _convert(work, bounded, source, target, count):
    which = CONVERT_BOUNDED if bounded else CONVERT_UNBOUNDED
    call_three(int64s(work.phase.native, PRODUCTS)[which], source, target, count)


@part(inline=True)
def _set_matrix(target, source):
    target.offset, target.blocks, target.vectors = source.offset, source.blocks, source.vectors
    target.steps, target.stride = source.steps, source.stride


@part()
def _run(phase, work):
    """All blocks of a phase, by as many threads as the step has."""
    if work.shared:
        run_shared(phase, work.own, work.control)
    else:
        run_alone(phase, work.own)


@part()
def _linear(phase, work, matrix, rows, block, out, out_stride):
    """out[r] = starts[r] + x[r] W of work.starts and the rows at phase.h_rows; `block` floats a block of out."""
    phase.kind, phase.rows, phase.block, phase.backwards = LINEAR, rows, block, 0
    _set_matrix(phase.h, matrix)
    phase.h_stride = work.row_stride
    phase.out, phase.out_stride = out, out_stride
    _run(phase, work)


@part()
def _enumerate(batch, work, first, last, begin, steps):
    """Rows of the steps [begin, begin + steps) of lanes [first, last), step by step; how many."""
    lanes, places = int64s(work.row_lane, TILE), int64s(work.row_place, TILE)
    first_rows = int64s(work.first_rows, TILE + 1)
    row = 0
    for step in range(steps):
        first_rows[step] = row
        for lane in range(first, last):
            record = batch.lanes[lane]
            if record.steps > begin + step:
                lanes[row] = lane
                places[row] = record.offset + begin + step
                row += 1
    first_rows[steps] = row
    return row


@part()
def _gather_inputs(net, batch, work, rows):
    """Converted input rows of layer 0."""
    places = int64s(work.row_place, rows)
    ends, inner = net.ends[0], net.layers[0].inner
    embedded = ends.input_kind == EMBEDDED
    for row in range(rows):
        place = places[row]
        if embedded:
            source = net.weights + ends.table + np.int64(batch.tokens[place]) * inner * 4
        else:
            source = batch.features + place * ends.input_size * 4
            if ends.input_size != inner:
                plain, given = float32s(work.plain, ends.input_size), float32s(source, ends.input_size)
                for k in range(ends.input_size):
                    plain[k] = given[k]
                source = work.plain
        _convert(work, False, source, work.x_rows + row * work.row_stride, inner)


@part()
def _start_sums(net, batch, work, index, rows, hoisted):
    """Where each row's sums start, after the product with its input if that is made for all steps at once."""
    layer = net.layers[index]
    starts = int64s(work.starts, rows)
    phase = work.phase
    phase.x.offset = ABSENT
    if index == 0 and net.ends[0].input_kind == FOLDED:
        places = int64s(work.row_place, rows)
        for row in range(rows):
            token = np.int64(batch.tokens[places[row]])
            starts[row] = net.weights + net.ends[0].table + token * layer.width * 4
        return
    if index == 0:
        _gather_inputs(net, batch, work, rows)
    else:
        for row in range(rows):
            source, target = work.hs + row * work.hs_stride, work.x_rows + row * work.row_stride
            _convert(work, layer.input_bounded, source, target, layer.inner)
    bias = net.weights + layer.bias
    if not hoisted:
        for row in range(rows):
            starts[row] = bias
        _set_matrix(phase.x, layer.x)
        phase.x_rows, phase.x_stride = work.x_rows, work.row_stride
        return
    for row in range(rows):
        starts[row] = work.sums + row * work.sums_stride
        _copy(bias, starts[row], layer.width)
    phase.starts, phase.h_rows = work.starts, work.x_rows
    _linear(phase, work, layer.x, rows, layer.block, work.sums, work.sums_stride)


@part()
def _layer(net, batch, work, index, steps, first, hoist):
    """One layer over a chunk of steps: work.hs holds its input's rows before and its h after."""
    layer = net.layers[index]
    first_rows, lanes = int64s(work.first_rows, TILE + 1), int64s(work.row_lane, TILE)
    latest = int64s(work.latest, TILE)
    before, cell = int64s(work.before, TILE), int64s(work.cells, TILE)
    latest[:] = ABSENT
    hoisted = hoist or layer.kind == GRU_RESET_BEFORE
    _start_sums(net, batch, work, index, first_rows[steps], hoisted)
    for step in range(steps):
        begin, end = first_rows[step], first_rows[step + 1]
        for row in range(begin, end):
            lane = lanes[row]
            place = index * net.slots + batch.lanes[lane].slot
            previous = latest[lane - first]
            before[row] = net.h + place * net.h_stride
            if previous != ABSENT:
                before[row] = work.hs + previous * work.hs_stride
            latest[lane - first] = row
            cell[row] = net.c + place * net.c_stride
            target = work.h_rows + (row - begin) * work.row_stride
            _convert(work, layer.bounded, before[row], target, layer.output)
        if layer.kind == GRU_RESET_BEFORE:
            _step_reset_before(net, work, index, begin, end)
        else:
            _step(net, work, index, begin, end)
        if not layer.bounded:
            for row in range(begin, end):
                if not _is_finite(work.hs + row * work.hs_stride, layer.output):
                    batch.lanes[lanes[row]].finite = False


@part()
def _step(net, work, index, begin, end):
    """One step of a layer for its rows [begin, end)."""
    layer, phase = net.layers[index], work.phase
    projected = layer.second.offset != ABSENT
    phase.kind, phase.rows, phase.block = layer.kind, end - begin, layer.block
    _set_matrix(phase.h, layer.h)
    phase.h_rows, phase.h_stride = work.h_rows, work.row_stride
    phase.units = layer.hidden // LANES
    phase.options = ABSENT if layer.options == ABSENT else net.weights + layer.options
    phase.starts = work.starts + 8 * begin
    phase.before, phase.cells = work.before + 8 * begin, work.cells + 8 * begin
    if projected:
        phase.out, phase.out_stride = work.wide, work.wide_stride
    else:
        phase.out, phase.out_stride = work.hs + begin * work.hs_stride, work.hs_stride
    work.turn = 1 - work.turn
    phase.backwards = 0 if work.shared else work.turn
    _run(phase, work)
    if projected:
        starts = int64s(work.second_starts, TILE)
        for row in range(end - begin):
            starts[row] = work.zeros
            target = work.h_rows + row * work.row_stride
            _convert(work, False, work.wide + row * work.wide_stride, target, layer.hidden)
        phase.starts = work.second_starts
        columns = layer.second.vectors * LANES
        out = work.hs + begin * work.hs_stride
        _linear(phase, work, layer.second, end - begin, columns, out, work.hs_stride)


@part()
def _step_reset_before(net, work, index, begin, end):
    """The same for the GRU whose second product waits for the reset gate: sums are whole rows."""
    layer, phase = net.layers[index], work.phase
    rows, hidden = end - begin, layer.hidden
    starts, before = int64s(work.starts, TILE), int64s(work.before, TILE)
    own_starts = int64s(work.second_starts, TILE)
    sums = work.sums + begin * work.sums_stride
    for row in range(rows):
        own_starts[row] = sums + row * work.sums_stride
        if starts[begin + row] != own_starts[row]:
            _copy(starts[begin + row], own_starts[row], layer.width)
    phase.starts, phase.h_rows = work.second_starts, work.h_rows
    _linear(phase, work, layer.h, rows, layer.h.vectors * LANES, sums, work.sums_stride)
    for row in range(rows):
        wide = work.wide + row * work.wide_stride
        for unit in range(0, hidden * 4, VECTOR_BYTES):
            _reset(own_starts[row] + unit, before[begin + row] + unit, wide + unit)
        _convert(work, True, wide, work.h_rows + row * work.row_stride, hidden)
        own_starts[row] += 8 * hidden
    out = sums + 8 * hidden
    _linear(phase, work, layer.second, rows, layer.second.vectors * LANES, out, work.sums_stride)
    for row in range(rows):
        n, h = own_starts[row], work.hs + (begin + row) * work.hs_stride
        for unit in range(0, hidden * 4, VECTOR_BYTES):
            _gru_reset_before(n - 4 * hidden + unit, n + unit, before[begin + row] + unit, h + unit)


@part()
def _keep(net, batch, work, index, first, last):
    """A layer's latest h into the lanes' slots."""
    layer = net.layers[index]
    latest = int64s(work.latest, TILE)
    for lane in range(first, last):
        row = latest[lane - first]
        if row != ABSENT:
            slot = index * net.slots + batch.lanes[lane].slot
            _copy(work.hs + row * work.hs_stride, net.h + slot * net.h_stride, layer.output)


@part()
def _head(net, work, rows):
    """Logits or outputs of the rows of h whose addresses are in work.listed."""
    listed, starts = int64s(work.listed, rows), int64s(work.second_starts, rows)
    ends, phase = net.ends[0], work.phase
    inner = net.layers[net.depth - 1].output
    for row in range(rows):
        starts[row] = net.weights + ends.bias
        _convert(work, ends.bounded, listed[row], work.x_rows + row * work.row_stride, inner)
    phase.starts, phase.h_rows = work.second_starts, work.x_rows
    _linear(phase, work, ends.head, rows, ends.head.vectors * LANES, work.logits, ends.width * 4)


@part()
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
        _head(net, work, count)
        done = 0
        for scored in range(begin, row):
            lane = lanes[scored]
            if batch.lanes[lane].score:
                record, token = batch.lanes[lane], batch.tokens[places[scored]]
                logits = memory_at(work.logits + done * width * 4)
                score(record, memory_at(batch.pool), logits, size, places[scored] - record.offset, token)
                done += 1


@part()
def _predict(net, batch, work, first, last, begin, end):
    """Head and draw for the predicting lanes whose last step is in [begin, end)."""
    latest, listed = int64s(work.latest, TILE), int64s(work.listed, TILE)
    size, width = net.ends[0].size, net.ends[0].width
    draws = net.ends[0].input_kind != FEATURES
    lane = first
    while lane < last:
        from_lane, count = lane, 0
        while lane < last and count < work.head_rows:
            record = batch.lanes[lane]
            if record.predict and begin < record.steps <= end:
                listed[count] = work.hs + latest[lane - first] * work.hs_stride
                count += 1
            lane += 1
        if count == 0:
            return
        _head(net, work, count)
        done = 0
        for answered in range(from_lane, lane):
            record = batch.lanes[answered]
            if record.predict and begin < record.steps <= end:
                logits = memory_at(work.logits + done * width * 4)
                answer(record, memory_at(batch.pool), logits, size, draws, memory_at(work.answers))
                done += 1


@part()
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
        rows = _enumerate(batch, work, first, last, begin, steps)
        for index in range(net.depth):
            _layer(net, batch, work, index, steps, first, steps > 1)
            if index == net.depth - 1 and scores:
                _score(net, batch, work, rows)
            _keep(net, batch, work, index, first, last)
        _predict(net, batch, work, first, last, begin, begin + steps)
        begin += steps


class Net(NamedTuple):
    """A NETWORK record, with arrays for what its addresses point to."""

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
def _open(record):
    layers = records(record.layers, record.depth, LAYER)
    ends = records(record.ends, 1, ENDS)
    return Net(
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
def _columns(record, count):
    return Columns(
        records(record.lanes, count, LANE),
        uint32s(record.tokens, record.inputs),
        record.features,
        record.pool,
    )


@entry
def tick(network, lanes, workspace, count: int) -> None:  # type: ignore[no-untyped-def]
    """Apply the inputs of lanes [0, count) and fill in their answers.

    network: NETWORK [1]. lanes: BATCH [1]. workspace: WORK [1], the calling
    thread's own. The state is updated in place for the lanes' slots; a slot may be in one lane only.
    """
    net, batch, work = _open(network[0]), _columns(lanes[0], count), workspace[0]
    work.phase.weights, work.phase.native = net.weights, network[0].native
    for first in range(0, count, TILE):
        _tile(net, batch, work, first, min(first + TILE, count))
    if work.shared:
        store(work.control + OPEN, 0)


@entry
def assist(workspace, own: int) -> None:  # type: ignore[no-untyped-def]
    """Help with the shared step of another thread, whose work space this is, until it is over.

    own: address of `phase.OWN_BYTES` of the helping thread's.
    """
    work = workspace[0]
    help_until_closed(work.phase, own, work.control)
