"""From rows of logits to lanes' answers: token, log-probability, list of the most probable, score.

A thread block takes a row. `keepgate_kernels.sampling` says what is drawn, and how.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.layout import AT_ONCE
from keepgate_kernels.cuda.listing import list_top
from keepgate_kernels.cuda.plan import (
    BAD,
    COUNTS_AT,
    FIRST_INPUT,
    INPUTS_AT,
    LANE_OF,
    LANES,
    RECORDS_AT,
    ROW_WORDS,
    ROWS_AT,
    SCRATCH,
    UNITS_OF,
    WORK_BASE,
    WORK_STRIDE,
)
from keepgate_kernels.cuda.powers import (
    ONE,
    SLOTS,
    ZERO,
    Scratch,
    largest_of,
    log_probability_of,
    lowest,
    total_power,
    uniform,
    weigh,
)
from keepgate_kernels.cuda.ptx import as_float, as_word, rounded_product
from keepgate_kernels.cuda.ranking import PARTS, find, truncate
from keepgate_kernels.cuda.target import device_function
from keepgate_kernels.cuda.tiles import WARP
from keepgate_kernels.lane import LANE

_LEAST_TEMPERATURE = np.float32(1e-6)
"""Below it the most probable token has all of the mass already; keeps 1 / temperature finite."""
_LOW = np.int64(0xFFFFFFFF)
_WORD_BITS = np.uint64(32)

RECORD_WORDS = LANE.itemsize // 4
ANSWER_WORDS = 3
"""Of a lane's answer: token, bits of its log-probability, whether all is finite."""
_FIELDS = {name: entry[1] for name, entry in (LANE.fields or {}).items()}
_POSITION, _SEED = _FIELDS["position"] // 4, _FIELDS["seed"] // 4
_LOGITS, _OUTPUTS = _FIELDS["logits"] // 4, _FIELDS["outputs"] // 4
_TOP, _SCORES, _TOP_COUNT = _FIELDS["top"] // 4, _FIELDS["scores"] // 4, _FIELDS["top_count"] // 4
_TEMPERATURE, _TOP_P, _TOP_K = _FIELDS["temperature"] // 4, _FIELDS["top_p"] // 4, _FIELDS["top_k"] // 4
_PREDICT, _PREDICT_BIT = _FIELDS["predict"] // 4, _FIELDS["predict"] % 4 * 8
_SCORE, _SCORE_BIT = _FIELDS["score"] // 4, _FIELDS["score"] % 4 * 8


@device_function
def _unsigned(batch: Any, at: Any) -> Any:
    """Two words as a uint64."""
    low, high = np.int64(batch[at]) & _LOW, np.int64(batch[at + 1]) & _LOW
    return np.uint64(low) | (np.uint64(high) << _WORD_BITS)


@device_function
def _float_at(batch: Any, at: Any) -> Any:
    """A word as a float32."""
    return as_float(np.uint32(np.int64(batch[at]) & _LOW))


@device_function
def _scratch(
    work: Any, keys: Any, box: Any, counts: Any, shares: Any, plan: Any, number: Any, threads: Any
) -> Any:
    """A row's: the arrays have room for as many rows as `logits` has."""
    size, turn = plan[UNITS_OF], AT_ONCE * threads
    padded = (size + turn - 1) // turn * turn
    length = 1
    while length < size:
        length *= 2
    rows = plan[WORK_BASE] + plan[WORK_STRIDE] * number
    own, keys_at = plan[SCRATCH] + number * 2 * padded, number * length
    return Scratch(work, rows, own, own + padded, keys, keys_at, box, counts, shares, size, padded, threads)


@functools.cache
def make_answer(draws: bool, threads: int) -> Any:
    """The kernel that fills in the answers of rows whose head has been computed; a thread block each.

    Arguments: batch int32; work float32; keys uint64; out uint32, answers by lane and then
    the pool, from word pool_at on; plan of the head; at: (pool_at, first row, 0). draws: whether
    tokens are drawn. threads: of a block.
    """
    warps = threads // WARP

    def answer(batch: Any, work: Any, keys: Any, out: Any, plan: Any, at: Any) -> None:
        box = cuda.shared.array((SLOTS, warps), types.float64)
        counts = cuda.shared.array((SLOTS, warps), types.int64)
        shares = cuda.shared.array(PARTS, types.float64)
        thread = cuda.threadIdx.x
        pool, first, _ = at
        number = np.int64(cuda.blockIdx.x)
        if first + number >= batch[LANES]:
            return
        lane = np.int64(batch[batch[ROWS_AT] + (first + number) * ROW_WORDS + LANE_OF])
        record = batch[RECORDS_AT] + lane * RECORD_WORDS
        finite = work[plan[BAD] + lane] == ZERO
        cuda.syncthreads()
        if thread == 0:
            work[plan[BAD] + lane] = ZERO
        if (batch[record + _PREDICT] >> _PREDICT_BIT) & 1:
            scratch = _scratch(work, keys, box, counts, shares, plan, number, threads)
            largest, all_finite, first_own = largest_of(scratch)
            finite = finite and all_finite
            kept = batch[record + (_LOGITS if draws else _OUTPUTS)]
            if kept >= 0:
                for index in range(thread, scratch.size, threads):
                    out[pool + kept + index] = as_word(work[scratch.row + index])
            if draws and all_finite:
                position, seed = _unsigned(batch, record + _POSITION), _unsigned(batch, record + _SEED)
                temperature, top_p = (
                    _float_at(batch, record + _TEMPERATURE),
                    _float_at(batch, record + _TOP_P),
                )
                top_k = np.int64(batch[record + _TOP_K]) & _LOW
                if temperature == ZERO:
                    log_total = math.log(total_power(scratch, largest))
                    token = lowest(counts, first_own)
                else:
                    scale = ONE / max(temperature, _LEAST_TEMPERATURE)
                    total, mass = weigh(scratch, largest, scale)
                    log_total = math.log(total)
                    if 0 < top_k < scratch.size or top_p < ONE:
                        mass = truncate(scratch, largest, top_k, top_p, mass)
                    share = rounded_product(uniform(seed, position), mass)
                    token = find(scratch, share, False, ZERO, True)
                if thread == 0:
                    out[lane * ANSWER_WORDS] = np.uint32(token)
                    log_probability = log_probability_of(work[scratch.row + token], largest, log_total)
                    out[lane * ANSWER_WORDS + 1] = as_word(log_probability)
                count = np.int64(batch[record + _TOP_COUNT])
                if count > 0:
                    top = pool + batch[record + _TOP]
                    list_top(scratch, largest, log_total, out, top, count)
        if thread == 0:
            out[lane * ANSWER_WORDS + 2] = np.uint32(1 if finite else 0)

    return cuda.jit(answer)


@functools.cache
def make_score(threads: int) -> Any:
    """The kernel that puts down what the logits before a step gave the step's token, for the lanes that
    score.

    Arguments as for `make_answer`; at: (pool_at, first row, step).
    """
    warps = threads // WARP

    def score(batch: Any, work: Any, keys: Any, out: Any, plan: Any, at: Any) -> None:
        box = cuda.shared.array((SLOTS, warps), types.float64)
        counts = cuda.shared.array((SLOTS, warps), types.int64)
        shares = cuda.shared.array(PARTS, types.float64)
        pool, first, step = at
        number = np.int64(cuda.blockIdx.x)
        if first + number >= batch[batch[COUNTS_AT] + step]:
            return
        row = batch[ROWS_AT] + (first + number) * ROW_WORDS
        lane = np.int64(batch[row + LANE_OF])
        record = batch[RECORDS_AT] + lane * RECORD_WORDS
        if (batch[record + _SCORE] >> _SCORE_BIT) & 1 == 0:
            return
        scratch = _scratch(work, keys, box, counts, shares, plan, number, threads)
        largest, finite, _ = largest_of(scratch)
        log_probability = np.float32(math.nan)
        if finite:
            log_total = math.log(total_power(scratch, largest))
            token = np.int64(batch[batch[INPUTS_AT] + batch[row + FIRST_INPUT] + step])
            log_probability = log_probability_of(work[scratch.row + token], largest, log_total)
        if cuda.threadIdx.x == 0:
            if not -math.inf < log_probability < math.inf:
                work[plan[BAD] + lane] = ONE
            out[pool + batch[record + _SCORES] + step] = as_word(log_probability)

    return cuda.jit(score)
