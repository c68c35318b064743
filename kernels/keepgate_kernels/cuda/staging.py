"""A tick's upload: lanes as rows, with everything that the kernels read of them, in one array of words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keepgate_kernels.cuda import plan as p
from keepgate_kernels.cuda.answers import RECORD_WORDS
from keepgate_kernels.lanes import Lanes
from numpy.typing import NDArray


class Turn(NamedTuple):
    """Lanes that are computed together. counts: rows alive at each step, falling; rows [0, n) of the table.

    words: length of the upload, of the first lanes' places if there are fewer lanes than places.
    """

    lanes: int
    counts: NDArray[np.int32]
    scores: bool
    predicts: bool
    words: int


def words_of(places: int, steps: int, input_words: int) -> int:
    """Words of an upload with room for that many lanes, steps and words of inputs."""
    return p.HEADER + places * (p.ROW_WORDS + RECORD_WORDS) + steps + input_words


def fill(
    words: NDArray[np.int32], lanes: Lanes, first: int, count: int, places: int, halves: NDArray[np.int32]
) -> Turn:
    """Write lanes [first, first + count) into `words`; `places` lanes have room.

    halves [S]: which half of its state a slot uses; they are moved on by the steps.
    """
    records = lanes.batch.lanes[first : first + count]
    slots, steps, offsets = records["slot"], records["steps"], records["offset"]
    begin = int(offsets.min())
    longest = int(steps.max())
    end = int((offsets + steps).max())
    if longest > 1:
        order = np.argsort(-steps, kind="stable")
        counts = (count - np.cumsum(np.bincount(steps, minlength=longest + 1)))[:longest].astype(np.int32)
    else:
        order, counts = np.arange(count), np.array([count], np.int32)
    rows_at = p.HEADER
    records_at = rows_at + places * p.ROW_WORDS
    counts_at = records_at + places * RECORD_WORDS
    inputs_at = counts_at + longest
    words[p.LANES], words[p.ROWS_AT], words[p.RECORDS_AT] = count, rows_at, records_at
    words[p.INPUTS_AT], words[p.COUNTS_AT] = inputs_at, counts_at
    table = words[rows_at : rows_at + count * p.ROW_WORDS].reshape(count, p.ROW_WORDS)
    table[:, p.SLOT] = slots[order]
    table[:, p.FIRST_INPUT] = offsets[order] - begin
    table[:, p.LANE_OF] = order
    table[:, p.STEPS] = 2 * steps[order] + halves[slots[order]]
    words[records_at : records_at + count * RECORD_WORDS] = records.view(np.int32)
    words[counts_at:inputs_at] = counts
    inputs: NDArray[Any] = lanes.batch.tokens if lanes.takes_tokens else lanes.batch.features
    given = inputs[begin:end].reshape(-1).view(np.int32)
    words[inputs_at : inputs_at + given.size] = given
    halves[slots] ^= (steps & 1).astype(np.int32)
    width = 1 if lanes.takes_tokens else inputs.shape[1]
    return Turn(
        count,
        counts,
        bool(records["score"].any()),
        bool(records["predict"].any()),
        inputs_at + max(given.size, (places if longest == 1 else 0) * width),
    )
