"""Layers and the head over the rows of a tile.

A row is one lane at one step. Rows are listed step by step, so that those of a step lie side by side.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.cpu import cells
from keepgate_kernels.cpu.intrinsics import intrinsic_of
from keepgate_kernels.cpu.memory import float32s, int64s
from keepgate_kernels.cpu.native import CONVERT_BOUNDED, CONVERT_UNBOUNDED, PRODUCTS, call_three
from keepgate_kernels.cpu.phase import LANES, LINEAR, TILE, VECTOR_BYTES
from keepgate_kernels.cpu.plan import ABSENT, EMBEDDED, FOLDED, GRU_RESET_BEFORE
from keepgate_kernels.cpu.rows import copy, is_finite
from keepgate_kernels.cpu.sharing import run_alone, run_shared
from keepgate_kernels.jit import part

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
    """out[r] = starts[r] + x[r] W for phase.starts and the rows at phase.h_rows; `block` numbers a block."""
    phase.kind, phase.rows, phase.block, phase.backwards = LINEAR, rows, block, 0
    _set_matrix(phase.h, matrix)
    phase.h_stride = work.row_stride
    phase.out, phase.out_stride = out, out_stride
    _run(phase, work)


@part(inline=True)
def list_rows(batch, work, first, last, begin, steps):
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


@part(inline=True)
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


@part(inline=True)
def _start_sums(net, batch, work, index, rows, hoisted):
    """Where each row's sums start, after the product with its input if that is made for all steps at once."""
    layer = net.layers[index]
    starts, after = int64s(work.starts, rows), int64s(work.after, rows)
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
            target = work.x_rows + row * work.row_stride
            _convert(work, layer.input_bounded, after[row], target, layer.inner)
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


@part(inline=True)
def run_layer(net, batch, work, index, steps, first, in_place):
    """One layer over a chunk of steps: work.after tells where its input's rows lie before, and its h after.

    in_place: whether the new h may go straight to the lanes' slots.
    """
    layer = net.layers[index]
    first_rows, lanes = int64s(work.first_rows, TILE + 1), int64s(work.row_lane, TILE)
    latest, cell = int64s(work.latest, TILE), int64s(work.cells, TILE)
    before, after = int64s(work.before, TILE), int64s(work.after, TILE)
    _start_sums(net, batch, work, index, first_rows[steps], steps > 1 or layer.kind == GRU_RESET_BEFORE)
    in_place = in_place and (layer.second.offset == ABSENT or layer.kind == GRU_RESET_BEFORE)
    latest[:] = ABSENT
    for step in range(steps):
        begin, end = first_rows[step], first_rows[step + 1]
        for row in range(begin, end):
            lane = lanes[row]
            place = index * net.slots + batch.lanes[lane].slot
            previous = latest[lane - first]
            latest[lane - first] = row
            slot = net.h + place * net.h_stride
            before[row] = slot if previous == ABSENT else after[previous]
            after[row] = slot if in_place else work.hs + row * work.hs_stride
            cell[row] = net.c + place * net.c_stride
            target = work.h_rows + (row - begin) * work.row_stride
            _convert(work, layer.bounded, before[row], target, layer.output)
        if layer.kind == GRU_RESET_BEFORE:
            _step_reset_before(net, work, index, begin, end)
        else:
            _step(net, work, index, begin, end)
        if not layer.bounded:
            for row in range(begin, end):
                if not _is_finite(after[row], layer.output):
                    batch.lanes[lanes[row]].finite = False


@part(inline=True)
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
    phase.out = work.after + 8 * begin
    if projected:
        listed = int64s(work.listed, TILE)
        for row in range(end - begin):
            listed[row] = work.wide + row * work.wide_stride
        phase.out = work.listed
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


@part(inline=True)
def _step_reset_before(net, work, index, begin, end):
    """The same for the GRU whose second product waits for the reset gate: sums are whole rows."""
    layer, phase = net.layers[index], work.phase
    rows, hidden = end - begin, layer.hidden
    starts, before, after = int64s(work.starts, TILE), int64s(work.before, TILE), int64s(work.after, TILE)
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
        n, h = own_starts[row], after[begin + row]
        for unit in range(0, hidden * 4, VECTOR_BYTES):
            _gru_reset_before(n - 4 * hidden + unit, n + unit, before[begin + row] + unit, h + unit)


@part(inline=True)
def keep_states(net, batch, work, index, first, last):
    """A layer's latest h into the lanes' slots, where it is not there already."""
    latest, after = int64s(work.latest, TILE), int64s(work.after, TILE)
    for lane in range(first, last):
        row = latest[lane - first]
        if row != ABSENT:
            place = index * net.slots + batch.lanes[lane].slot
            slot = net.h + place * net.h_stride
            if after[row] != slot:
                _copy(after[row], slot, net.layers[index].output)


@part(inline=True)
def run_head(net, work, rows):
    """Logits or outputs of the rows of h whose addresses are in work.listed."""
    listed, starts = int64s(work.listed, rows), int64s(work.second_starts, rows)
    ends, phase = net.ends[0], work.phase
    inner = net.layers[net.depth - 1].output
    for row in range(rows):
        starts[row] = net.weights + ends.bias
        _convert(work, ends.bounded, listed[row], work.x_rows + row * work.row_stride, inner)
    phase.starts, phase.h_rows = work.second_starts, work.x_rows
    _linear(phase, work, ends.head, rows, ends.head.vectors * LANES, work.logits, ends.width * 4)
