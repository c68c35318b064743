"""Records that tell a kernel what a model is and where its weights lie.

Offsets are bytes into the packed weights; widths are padded and count float32 numbers.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.spec import CellKind

ABSENT = -1
FOLDED, EMBEDDED, FEATURES = range(3)

RNN_TANH, RNN_RELU, LSTM, CIFG, GRU, GRU_RESET_BEFORE = range(6)
KIND_CODES = {
    CellKind.RNN_TANH: RNN_TANH,
    CellKind.RNN_RELU: RNN_RELU,
    CellKind.LSTM: LSTM,
    CellKind.CIFG: CIFG,
    CellKind.GRU: GRU,
    CellKind.GRU_RESET_BEFORE: GRU_RESET_BEFORE,
}

MATRIX = np.dtype(
    [("offset", "<i8"), ("blocks", "<i8"), ("vectors", "<i8"), ("steps", "<i8"), ("stride", "<i8")]
)
"""Packed weights: blocks of `vectors` vectors of outputs, `stride` bytes apart, with `steps` groups of k."""

LAYER = np.dtype(
    [
        ("kind", "<i8"),
        ("hidden", "<i8"),
        ("output", "<i8"),
        ("inner", "<i8"),
        ("width", "<i8"),
        ("block", "<i8"),
        ("bias", "<i8"),
        ("options", "<i8"),
        ("bounded", "<i8"),
        ("input_bounded", "<i8"),
        ("x", MATRIX),
        ("h", MATRIX),
        ("second", MATRIX),
    ]
)
"""hidden, output, inner: padded H, P, K. width: of a lane's sums, `block` of them a block. options: peepholes
and clip, or ABSENT. bounded: whether h lies in [-1, 1]. second: the product of r h in GRU_RESET_BEFORE, the
projection in LSTM and CIFG, or its offset is ABSENT."""

ENDS = np.dtype(
    [
        ("input_kind", "<i8"),
        ("input_size", "<i8"),
        ("table", "<i8"),
        ("size", "<i8"),
        ("width", "<i8"),
        ("bias", "<i8"),
        ("bounded", "<i8"),
        ("head", MATRIX),
    ]
)
"""Both ends of a model. table: of folded rows, or of embeddings. size, width: outputs of the head, plain and
padded. bounded: whether the head's input lies in [-1, 1]."""
