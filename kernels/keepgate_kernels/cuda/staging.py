"""A tick's upload: lanes as rows, with everything that the kernels read of them, in one array of words.

Jitted for the processor: a tick of a thousand lanes leaves the host a few tens of microseconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda import plan as p
from keepgate_kernels.cuda.answers import ANSWER_WORDS, RECORD_WORDS
from keepgate_kernels.jit import entry
from keepgate_kernels.lane import LANE
from keepgate_kernels.lanes import Lanes

_LANES, _ROWS_AT, _INPUTS_AT = p.LANES, p.ROWS_AT, p.INPUTS_AT
_COUNTS_AT, _HEADER, _ROW_WORDS = p.COUNTS_AT, p.HEADER, p.ROW_WORDS
_SLOT_OF, _INPUT_OF, _LANE_OF, _STEPS_OF = p.SLOT, p.FIRST_INPUT, p.LANE_OF, p.STEPS

_PLACES = {name: entry[1] for name, entry in (LANE.fields or {}).items()}
_SLOT, _OFFSET, _STEPS = _PLACES["slot"] // 8, _PLACES["offset"] // 8, _PLACES["steps"] // 8
_FLAGS = _PLACES["predict"] // 8
_PREDICT, _SCORE = 1 << _PLACES["predict"] % 8 * 8, 1 << _PLACES["score"] % 8 * 8
_FINITE, _FINITE_BIT = _PLACES["finite"] // 4, np.uint32(_PLACES["finite"] % 4 * 8)
_FINITE_BYTE = np.uint32(0xFF << _PLACES["finite"] % 4 * 8)
_TOKEN, _LOG_PROBABILITY = _PLACES["token"] // 4, _PLACES["log_probability"] // 4


class Survey(NamedTuple):
    """Of lanes: the most steps of one, the first and behind the last of their inputs, whether any wants to be
    scored, or a prediction."""

    longest: int
    begin: int
    end: int
    scores: bool
    predicts: bool


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
    """Words of an upload with room for that many lanes, steps and words of inputs, and for a flat batch."""
    lanes = p.HEADER + places * (p.ROW_WORDS + RECORD_WORDS) + steps
    return lanes + p.HEADER + places * steps * p.ROW_WORDS + 1 + input_words


@entry
def _survey(records: Any, first: Any, count: Any) -> Any:
    longest, begin, end, flags = 0, records[first, _OFFSET], 0, 0
    for lane in range(first, first + count):
        steps, offset = records[lane, _STEPS], records[lane, _OFFSET]
        longest, begin, end = max(longest, steps), min(begin, offset), max(end, offset + steps)
        flags |= records[lane, _FLAGS]
    return longest, begin, end, flags & _SCORE != 0, flags & _PREDICT != 0


@entry
def _rank(words: Any, records: Any, halves: Any, first: Any, count: Any, longest: Any, begin: Any) -> None:
    """The table of rows, and counts; the head is there. Rows with the most steps come first, of equal ones
    the first lane. Inputs are those from `begin` on."""
    counts_at = words[_COUNTS_AT]
    behind = np.zeros(longest + 1, np.int64)  # lanes with more steps than so many
    for lane in range(first, first + count):
        behind[records[lane, _STEPS] - 1] += 1
    for steps in range(longest - 1, 0, -1):
        behind[steps - 1] += behind[steps]
    for step in range(longest):
        words[counts_at + step] = behind[step]
    for lane in range(count):
        slot, steps = records[first + lane, _SLOT], records[first + lane, _STEPS]
        at = _HEADER + behind[steps] * _ROW_WORDS
        behind[steps] += 1
        words[at + _SLOT_OF] = slot
        words[at + _INPUT_OF] = records[first + lane, _OFFSET] - begin
        words[at + _LANE_OF] = lane
        words[at + _STEPS_OF] = 2 * steps + halves[slot]
        halves[slot] ^= steps & 1


@entry
def _flatten(words: Any, flat: Any, lanes: Any, steps: Any) -> None:
    """Every step of every lane as a row of one step: step by step, lane by lane. Of a lane that has ended the
    last input is repeated; nothing is made of it."""
    rows = steps * lanes
    counts_at = _HEADER + rows * _ROW_WORDS
    words[flat + _LANES], words[flat + _ROWS_AT], words[flat + _COUNTS_AT] = rows, _HEADER, counts_at
    words[flat + _INPUTS_AT], words[flat + counts_at] = words[_INPUTS_AT] - flat, rows
    for step in range(steps):
        for lane in range(lanes):
            source, target = _HEADER + lane * _ROW_WORDS, flat + _HEADER + (step * lanes + lane) * _ROW_WORDS
            last = words[source + _STEPS_OF] // 2 - 1
            words[target + _SLOT_OF] = words[source + _SLOT_OF]
            words[target + _INPUT_OF] = words[source + _INPUT_OF] + min(step, last)
            words[target + _LANE_OF] = words[source + _LANE_OF]
            words[target + _STEPS_OF] = 2


@entry
def _tell(answers: Any, records: Any, first: Any, count: Any) -> None:
    for lane in range(count):
        at, words = lane * ANSWER_WORDS, records[first + lane]
        words[_TOKEN], words[_LOG_PROBABILITY] = answers[at], answers[at + 1]
        words[_FINITE] = words[_FINITE] & ~_FINITE_BYTE | answers[at + 2] << _FINITE_BIT


def survey(lanes: Lanes, first: int, count: int) -> Survey:
    """What lanes [first, first + count) need."""
    return Survey(*_survey(lanes.batch.lanes.view(np.int64).reshape(-1, LANE.itemsize // 8), first, count))


def fill(
    words: NDArray[np.int32],
    lanes: Lanes,
    first: int,
    count: int,
    places: int,
    halves: NDArray[np.int32],
    found: Survey,
    sequence: bool,
) -> Turn:
    """Write lanes [first, first + count) into `words`; `places` lanes have room.

    halves [S]: which half of its state a slot uses; they are moved on by the steps. found: of these lanes.
    sequence: whether to put a flat batch there too.
    """
    records_at = p.HEADER + places * p.ROW_WORDS
    counts_at = records_at + places * RECORD_WORDS
    flat = counts_at + found.longest
    inputs_at = flat + (_flat_words(count * found.longest) if sequence else 0)
    inputs: NDArray[Any] = lanes.batch.tokens if lanes.takes_tokens else lanes.batch.features
    width = 1 if lanes.takes_tokens else inputs.shape[1]
    given = inputs[found.begin : found.end].reshape(-1).view(np.int32)
    words[: p.HEADER] = 0
    words[p.LANES], words[p.ROWS_AT], words[p.RECORDS_AT] = count, p.HEADER, records_at
    words[p.INPUTS_AT], words[p.COUNTS_AT] = inputs_at, counts_at
    words[inputs_at : inputs_at + given.size] = given
    records = lanes.batch.lanes
    words[records_at : records_at + count * RECORD_WORDS] = records[first : first + count].view(np.int32)
    numbers = records.view(np.int64).reshape(-1, LANE.itemsize // 8)
    _rank(words, numbers, halves, first, count, found.longest, found.begin)
    if sequence:
        _flatten(words, flat, count, found.longest)
    return Turn(
        count,
        words[counts_at:flat],
        found.scores,
        found.predicts,
        inputs_at + max(given.size, (places if found.longest == 1 else 0) * width),
        flat if sequence else 0,
    )


def tell(answers: NDArray[np.uint32], lanes: Lanes, first: int, count: int) -> None:
    """Copy tokens, their log-probabilities and whether all was finite into lanes [first, first + count)."""
    _tell(answers, lanes.batch.lanes.view(np.uint32).reshape(-1, RECORD_WORDS), first, count)


def _flat_words(rows: int) -> int:
    """Words of a flat batch, without its inputs."""
    return p.HEADER + rows * p.ROW_WORDS + 1
