"""The record that tells a kernel which product it is: int64 numbers, at these places.

Offsets count elements: of `operands` for rows, of `weights` (uint32) for tiles, of `values` and `work`
(float32) for the rest. ABSENT is none.
"""

from __future__ import annotations

from keepgate_kernels.spec import CellKind

ABSENT = -1

(
    KIND,
    UNITS_OF,
    X_CHUNKS,
    X_WEIGHTS,
    X_WEIGHT_SCALES,
    X_PLACE,
    X_BASE,
    X_HALF,
    X_STRIDE,
    X_SCALES,
    H_CHUNKS,
    H_WEIGHTS,
    H_WEIGHT_SCALES,
    H_PLACE,
    H_BASE,
    H_HALF,
    H_STRIDE,
    H_SCALES,
    START,
    START_STRIDE,
    OPTIONS,
    STATE_BASE,
    STATE_HALF,
    STATE_STRIDE,
    CELL_BASE,
    CELL_STRIDE,
    OUT_PLACE,
    OUT_BASE,
    OUT_HALF,
    OUT_STRIDE,
    OUT_BOUNDED,
    WORK_BASE,
    WORK_STRIDE,
    BAD,
    WIDTH,
    SCRATCH,
    LENGTH,
) = range(37)
"""KIND: of what happens to sums, below. UNITS_OF: real ones. A product has two phases, with an input x and
with h, either of which may have no chunks. CHUNKS: of k, in all. WEIGHTS: where tiles begin, [tile, chunk].
WEIGHT_SCALES: int8's, for each column of each tile. PLACE: which row is meant, below; it lies at BASE +
HALF * (which half of the state) + STRIDE * (slot, row or input). SCALES: int8's scales of rows in `work`,
one for each row of the half, or ABSENT for 1 / 127. START: what sums start from, [groups, units], the row
of the input's token if START_STRIDE is not 0. OPTIONS: peepholes and the clip. STATE, CELL: h and c in
`state`. OUT: the row that the next product reads; ABSENT in OUT_PLACE for none. OUT_BOUNDED: 1 if it lies
in [-1, 1]; if not and in int8, it is quantised later. WORK: rows of sums between two products, or of
logits. BAD: flags of lanes. WIDTH: units, padded to blocks; the distance of groups. SCRATCH: of the head's
rows, float32 in `work`, for drawing;
in a plan for sequences, of the rows of all steps in `operands`."""

RNN_TANH, RNN_RELU, LSTM, CIFG, GRU, GRU_RESET, GRU_SECOND, PROJECTION, HEAD = range(9)
FEED_FEATURES, FEED_TABLE, FEED_STATE = range(9, 12)
HOISTED = 12
"""GRU_RESET and GRU_SECOND: the two products of a GRU with the reset before the product. FEED: no product,
but rows made of inputs, of embeddings, or of a layer's h. HOISTED: the
products with x of all steps of a sequence, whose sums are left in `work`."""

KIND_CODES = {
    CellKind.RNN_TANH: RNN_TANH,
    CellKind.RNN_RELU: RNN_RELU,
    CellKind.LSTM: LSTM,
    CellKind.CIFG: CIFG,
    CellKind.GRU: GRU,
    CellKind.GRU_RESET_BEFORE: GRU_RESET,
}
GATES_OF = {
    RNN_TANH: 1,
    RNN_RELU: 1,
    LSTM: 4,
    CIFG: 3,
    GRU: 3,
    GRU_RESET: 3,
    GRU_SECOND: 1,
    PROJECTION: 1,
    HEAD: 1,
}

OLD, NEW, FINAL, BY_ROW = range(4)
"""Of which state or row: the slot's before the step, after it, after all of the lane's steps; that of the
row's number in the tick."""

HEADER = 16
LANES, ROWS_AT, RECORDS_AT, INPUTS_AT, COUNTS_AT, ARRIVED = range(6)
"""Words at the head of a batch: lanes, and where in it the table of rows, the lanes' records, inputs and the
counts of rows alive at each step lie; ARRIVED counts the thread blocks that came to a barrier of their
grid."""

SLOT, FIRST_INPUT, LANE_OF, STEPS = range(4)
ROW_WORDS = 4
"""A row of the table: STEPS is 2 * steps + the half of the state that is in use before them."""
