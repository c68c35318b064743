"""Where states, rows and sums lie in the device's arrays, told from the spec alone.

state: float32, of every layer h [2 halves, S, P], then c [S, H]. operands: rows as products read them, in the
precision: of every layer h again [2, S, padded P], then for R rows of a tick layer 0's inputs and, where a
layer has two products, what is between them. work: float32, flags and scales of rows, sums between two
products, logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda import plan as p
from keepgate_kernels.cuda.tiles import UNITS, WARP, blocks_of, padded_k
from keepgate_kernels.spec import CellKind, ModelSpec

MOST_ROWS = 8192
"""Rows of a tick; more lanes are computed in turns."""
MOST_LOGITS = 1 << 22
"""Numbers of logits computed at a time, unless that would be fewer than LEAST_HEAD_ROWS rows of them."""
LEAST_HEAD_ROWS = 16

SEQUENCE_ROWS = 2048
"""Rows of a sequence, lanes times steps, whose products with x are made at a time."""
SEQUENCE_SLACK = 128
"""Rows of the largest tile: the last one may be begun."""

Plan = NDArray[np.int64]

(
    LAYER_H,
    LAYER_C,
    LAYER_STATE,
    LAYER_HALF,
    LAYER_STRIDE,
    LAYER_CELL,
    LAYER_CELL_STRIDE,
    LAYER_ROWS,
    LAYER_ROWS_HALF,
    LAYER_ROWS_STRIDE,
    LAYER_SCALES,
    LAYER_FIRST,
    LAYER_LENGTH,
) = range(13)
"""A layer in `Layout.layers`: widths of h and c, then as in a plan; LAYER_FIRST: where h lies in a state."""

MOST_OF_A_WARP = 1024
"""Logits of a row that one warp works on; a longer row has ROW_WARPS."""
ROW_WARPS = 8
AT_ONCE = 4
"""Numbers of a row that a thread reads before it does anything with them."""


def row_threads(size: int) -> int:
    """Threads that work on a row of so many logits, whatever its company."""
    return WARP if size <= MOST_OF_A_WARP else ROW_WARPS * WARP


def padded_row(size: int) -> int:
    """Powers or ranks of a row: what its threads read at once divides it."""
    turn = AT_ONCE * row_threads(size)
    return -(-size // turn) * turn


class Layout:
    """Sizes and offsets for `slots` sessions. input_width: of layer 0's rows, or 0 if it reads none."""

    def __init__(self, spec: ModelSpec, precision: str, slots: int, input_width: int) -> None:
        self.slots, self.precision, self.input_width = slots, precision, input_width
        self.rows = min(slots, MOST_ROWS)
        self.state_size = self.operand_size = 0
        self.work_size = self.rows  # flags of lanes
        self.layers = np.full((len(spec.layers), LAYER_LENGTH), p.ABSENT, np.int64)
        first = 0
        for index, layer in enumerate(spec.layers):
            row = self.layers[index]
            size, width = layer.output_size, padded_k(layer.output_size, precision)
            row[LAYER_H], row[LAYER_C] = size, layer.cell_state_size
            row[LAYER_STATE], row[LAYER_HALF], row[LAYER_STRIDE] = (
                self._state(2 * slots * size),
                slots * size,
                size,
            )
            row[LAYER_CELL] = self._state(slots * layer.cell_state_size)
            row[LAYER_CELL_STRIDE] = layer.cell_state_size
            row[LAYER_ROWS], row[LAYER_ROWS_HALF] = self._operands(2 * slots * width), slots * width
            row[LAYER_ROWS_STRIDE], row[LAYER_FIRST] = width, first
            if precision == "int8" and not layer.is_bounded:
                row[LAYER_SCALES] = self._work(2 * slots)
            first += size + layer.cell_state_size
        self.input_stride = padded_k(input_width, precision)
        self.inputs = self._operands(self.rows * self.input_stride)
        self.input_scales = self._work(self.rows)
        two = [
            layer
            for layer in spec.layers
            if layer.cell.projection or layer.cell.kind is CellKind.GRU_RESET_BEFORE
        ]
        widest = max((layer.hidden_size for layer in two), default=0)
        self.wide_stride = padded_k(widest, precision)
        self.wide = self._operands(self.rows * self.wide_stride)
        self.sum_stride = 2 * UNITS * blocks_of(widest)
        self.sums = self._work(self.rows * self.sum_stride)
        self._lay_out_sequences(spec)
        self.logit_stride = UNITS * blocks_of(spec.head.size)
        wanted = max(LEAST_HEAD_ROWS, MOST_LOGITS // self.logit_stride // LEAST_HEAD_ROWS * LEAST_HEAD_ROWS)
        self.head_rows = min(wanted, -(-self.rows // LEAST_HEAD_ROWS) * LEAST_HEAD_ROWS)
        self.logits = self._work(self.head_rows * self.logit_stride)
        self.scratch = self._work(self.head_rows * 2 * padded_row(spec.head.size))
        self.key_size = self.head_rows << (spec.head.size - 1).bit_length()

    def _lay_out_sequences(self, spec: ModelSpec) -> None:
        """Room for the rows and sums of many steps, if every layer is one product that makes its own rows."""
        self.has_sequences = (self.layers[:, LAYER_SCALES] == p.ABSENT).all() and all(
            not layer.cell.projection and layer.cell.kind is not CellKind.GRU_RESET_BEFORE
            for layer in spec.layers
        )
        rows = (SEQUENCE_ROWS + SEQUENCE_SLACK) * int(self.has_sequences)
        self.kept_inputs = self._operands(rows * self.input_stride)
        self.kept_input_scales = self._work(rows)
        # Each layer has its own, so that what lies behind its units stays zero.
        self.kept = [self._operands(rows * int(stride)) for stride in self.layers[:, LAYER_ROWS_STRIDE]]
        widest = max(UNITS * blocks_of(layer.hidden_size) for layer in spec.layers)
        self.kept_sums = self._work(rows * 4 * widest)

    def sequence_plans(self, product: Plan, index: int, groups: int) -> tuple[Plan | None, Plan]:
        """Of a layer: the plan of the products with x of all steps, if there are any, and that of the steps.

        x are the kept rows of the layer before, or those that the feed made.
        """
        steps = product.copy()
        steps[p.WORK_BASE], steps[p.SCRATCH] = p.ABSENT, self.kept[index]
        if not product[p.X_CHUNKS]:
            return None, steps
        hoisted = product.copy()
        hoisted[p.KIND], hoisted[p.H_CHUNKS] = p.HOISTED, 0
        hoisted[p.X_PLACE], hoisted[p.X_HALF] = p.BY_ROW, 0
        if index == 0:
            hoisted[p.X_BASE] = self.kept_inputs
            if self.precision == "int8":
                hoisted[p.X_SCALES] = self.kept_input_scales
        else:
            hoisted[p.X_BASE] = self.kept[index - 1]
        for plan in (hoisted, steps):
            plan[p.WORK_BASE], plan[p.WORK_STRIDE] = self.kept_sums, groups * product[p.WIDTH]
        return hoisted, steps

    def keeps_inputs(self, feed: Plan) -> Plan:
        """The plan of a feed that makes the rows of all steps."""
        kept = feed.copy()
        kept[p.OUT_BASE], kept[p.H_SCALES] = self.kept_inputs, self.kept_input_scales
        return kept

    def _state(self, size: int) -> int:
        self.state_size += size
        return self.state_size - size

    def _operands(self, size: int) -> int:
        self.operand_size += size
        return self.operand_size - size

    def _work(self, size: int) -> int:
        self.work_size += size
        return self.work_size - size

    def reads_state(self, plan: Plan, phase: str, index: int, place: int) -> None:
        """The phase of a product takes h of a layer."""
        row = self.layers[index]
        names = ("PLACE", "BASE", "HALF", "STRIDE", "SCALES")
        places = (place, *row[[LAYER_ROWS, LAYER_ROWS_HALF, LAYER_ROWS_STRIDE, LAYER_SCALES]])
        for name, value in zip(names, places, strict=True):
            plan[getattr(p, f"{phase}_{name}")] = value

    def reads_inputs(self, plan: Plan) -> None:
        """A product's x is the row that the feed made."""
        plan[p.X_PLACE], plan[p.X_BASE], plan[p.X_HALF] = p.BY_ROW, self.inputs, 0
        plan[p.X_STRIDE] = self.input_stride
        plan[p.X_SCALES] = self.input_scales if self.precision == "int8" else p.ABSENT

    def writes_inputs(self, plan: Plan) -> None:
        """The feed's rows."""
        plan[p.OUT_PLACE], plan[p.OUT_BASE], plan[p.OUT_HALF] = p.BY_ROW, self.inputs, 0
        plan[p.OUT_STRIDE], plan[p.H_SCALES] = self.input_stride, self.input_scales

    def reads_wide(self, plan: Plan) -> None:
        """A second product takes what the first left; it lies in [-1, 1]."""
        plan[p.H_PLACE], plan[p.H_BASE], plan[p.H_HALF] = p.BY_ROW, self.wide, 0
        plan[p.H_STRIDE] = self.wide_stride

    def writes_wide(self, plan: Plan) -> None:
        """The first of two products makes a row for the second, and no state."""
        plan[p.OUT_PLACE], plan[p.OUT_BASE], plan[p.OUT_HALF] = p.BY_ROW, self.wide, 0
        plan[p.OUT_STRIDE], plan[p.OUT_BOUNDED] = self.wide_stride, 1

    def writes_sums(self, plan: Plan) -> None:
        """Sums that the second product needs."""
        plan[p.WORK_BASE], plan[p.WORK_STRIDE] = self.sums, self.sum_stride

    def writes_logits(self, plan: Plan) -> None:
        """The head's outputs, by the row's number in its group."""
        plan[p.WORK_BASE], plan[p.WORK_STRIDE] = self.logits, self.logit_stride
        plan[p.SCRATCH], plan[p.BAD] = self.scratch, 0

    def requantises(self, index: int, written: Plan) -> Plan:
        """The plan that makes rows of a layer's new h, once the product with the plan `written` has made
        it."""
        plan, row = written.copy(), self.layers[index]
        plan[p.KIND], plan[p.UNITS_OF], plan[p.OUT_PLACE] = p.FEED_STATE, row[LAYER_H], p.NEW
        plan[p.H_SCALES] = row[LAYER_SCALES]
        return plan

    def has_cell(self, plan: Plan, index: int) -> None:
        """c of a layer."""
        plan[p.CELL_BASE], plan[p.CELL_STRIDE] = self.layers[index, [LAYER_CELL, LAYER_CELL_STRIDE]]

    def keeps_state(self, plan: Plan, index: int) -> None:
        """h of a layer, to be read."""
        places = self.layers[index, [LAYER_STATE, LAYER_HALF, LAYER_STRIDE]]
        plan[p.STATE_BASE], plan[p.STATE_HALF], plan[p.STATE_STRIDE] = places

    def writes_state(self, plan: Plan, index: int, bounded: bool) -> None:
        """h of a layer: as state, and, unless its scale is known only once all of it is, as a row."""
        row = self.layers[index]
        self.keeps_state(plan, index)
        unbounded = row[LAYER_SCALES] != p.ABSENT
        plan[p.OUT_PLACE] = p.ABSENT if unbounded else p.NEW
        plan[p.OUT_BASE], plan[p.OUT_HALF] = row[[LAYER_ROWS, LAYER_ROWS_HALF]]
        plan[p.OUT_STRIDE] = row[LAYER_ROWS_STRIDE]
        plan[p.BAD], plan[p.OUT_BOUNDED] = 0, bounded
