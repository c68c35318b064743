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
    flat: where the head of the flattened batch lies, or 0.
    """

    lanes: int
    counts: NDArray[np.int32]
    scores: bool
    predicts: bool
    words: int
    flat: int


def words_of(places: int, steps: int, input_words: int) -> int:
    """Words of an upload with room for that many lanes, steps and words of inputs, and for `flatten`."""
    lanes = p.HEADER + places * (p.ROW_WORDS + RECORD_WORDS) + steps
    return lanes + p.HEADER + places * steps * p.ROW_WORDS + 1 + input_words


def fill(
    words: NDArray[np.int32],
    lanes: Lanes,
    first: int,
    count: int,
    places: int,
    halves: NDArray[np.int32],
    sequence: bool,
) -> Turn:
    """Write lanes [first, first + count) into `words`; `places` lanes have room.

    halves [S]: which half of its state a slot uses; they are moved on by the steps. sequence: whether to
    `flatten` it too.
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
    flat = counts_at + longest
    inputs_at = flat + (flat_words(count * longest) if sequence else 0)
    words[p.LANES], words[p.ROWS_AT], words[p.RECORDS_AT] = count, rows_at, records_at
    words[p.INPUTS_AT], words[p.COUNTS_AT] = inputs_at, counts_at
    table = words[rows_at : rows_at + count * p.ROW_WORDS].reshape(count, p.ROW_WORDS)
    table[:, p.SLOT] = slots[order]
    table[:, p.FIRST_INPUT] = offsets[order] - begin
    table[:, p.LANE_OF] = order
    table[:, p.STEPS] = 2 * steps[order] + halves[slots[order]]
    words[records_at : records_at + count * RECORD_WORDS] = records.view(np.int32)
    words[counts_at:flat] = counts
    words[p.ARRIVED] = 0
    if sequence:
        flatten(words[flat:], table, counts.size, inputs_at - flat)
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
        flat if sequence else 0,
    )


def flat_words(rows: int) -> int:
    """Words of a flattened batch, without its inputs."""
    return p.HEADER + rows * p.ROW_WORDS + 1


def flatten(words: NDArray[np.int32], table: NDArray[np.int32], steps: int, inputs_at: int) -> None:
    """A batch in which every step of every lane is a row of one step: step by step, lane by lane.

    Of a lane that has ended the last input is repeated; nothing is made of it.
    """
    lanes = len(table)
    rows = steps * lanes
    words[p.LANES], words[p.ROWS_AT], words[p.INPUTS_AT] = rows, p.HEADER, inputs_at
    words[p.COUNTS_AT] = p.HEADER + rows * p.ROW_WORDS
    words[words[p.COUNTS_AT]] = rows
    flat = words[p.HEADER : words[p.COUNTS_AT]].reshape(steps, lanes, p.ROW_WORDS)
    flat[:] = table
    last = table[:, p.STEPS] // 2 - 1
    flat[:, :, p.FIRST_INPUT] += np.minimum(np.arange(steps)[:, None], last).astype(np.int32)
    flat[:, :, p.STEPS] = 2
