"""One lane's record: what the kernel reads of a session's part of a batch, and what it answers."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.sampling import OPTIONS
from keepgate_kernels.spec import ModelSpec, TokenInput

ABSENT = -1
"""A place in the pool that was not asked for."""

LANE = np.dtype(
    [
        ("slot", "<i8"),
        ("offset", "<i8"),
        ("steps", "<i8"),
        ("position", "<u8"),
        ("logits", "<i8"),
        ("outputs", "<i8"),
        ("top", "<i8"),
        ("scores", "<i8"),
        *OPTIONS,
        ("top_count", "<u4"),
        ("token", "<u4"),
        ("log_probability", "<f4"),
        ("predict", "?"),
        ("score", "?"),
        ("finite", "?"),
    ],
    align=True,
)
"""offset: the lane's first row in the inputs; position: the session's, after the inputs.

logits [V], outputs [N], top and scores [steps]: places in the pool, or ABSENT. top: top_count ids, the bits
of uint32, then as many log-probabilities.
token, log_probability and finite are answers. finite is True at first; the tick makes it False if it meets a
logit, an output, a score or a state of the lane that is NaN or infinite, and then the others mean nothing.
"""

ANSWERED = np.dtype(OPTIONS)
"""How the token of a row is drawn: the values of `Sampling.as_record`."""

_ONE_INPUT = np.zeros((), LANE)
"""A lane with one input that predicts; slot, offset, position and options are to be set."""
for _field in ("logits", "outputs", "top", "scores"):
    _ONE_INPUT[_field] = ABSENT
for _field in ("steps", "predict", "finite"):
    _ONE_INPUT[_field] = 1

LANE_BYTES = LANE.itemsize


def one_input_each(spec: ModelSpec, slots: NDArray[np.int64], options: NDArray[np.void]) -> NDArray[np.void]:
    """Lanes for `Lanes.fill`, LANE [B], to be used as often as wanted: one input, and a prediction after it.

    slots [B]: different ones; options: ANSWERED [B].
    """
    count = len(slots)
    lanes = np.full(count, _ONE_INPUT)
    lanes["slot"] = slots
    lanes["offset"] = np.arange(count)
    for name, _ in OPTIONS:
        lanes[name] = options[name]
    if not isinstance(spec.input, TokenInput):
        lanes["outputs"] = np.arange(count) * spec.head.size
    return lanes


def _packer(record: np.dtype[np.void]) -> struct.Struct:
    """Writes such a record from its values, several times as fast as NumPy writes a single one."""
    codes = {"<i8": "q", "<u8": "Q", "<u4": "I", "<f4": "f", "|b1": "?"}
    layout, end = "<", 0
    for kind, offset, *_ in (record.fields or {}).values():
        layout += "x" * (offset - end) + codes[kind.str]
        end = offset + kind.itemsize
    return struct.Struct(layout + "x" * (record.itemsize - end))


PACKER = _packer(LANE)
