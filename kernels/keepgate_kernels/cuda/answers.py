"""From rows of logits to lanes' answers: token, log-probability, list of the most probable, score.

A thread block of one warp takes a row. `keepgate_kernels.sampling` says what is drawn, and how.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from keepgate_kernels.cuda.layout import VECTOR
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
    THREADS,
    ZERO,
    Scratch,
    largest_of,
    log_probability_of,
    uniform,
    vectors_of,
    weigh,
)
from keepgate_kernels.cuda.ptx import as_float, as_word, rounded_product
from keepgate_kernels.cuda.ranking import list_top, truncate
from keepgate_kernels.cuda.target import device_function
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
def _scratch(work: Any, sums: Any, keys: Any, plan: Any, number: Any) -> Any:
    """A row's: the arrays have room for as many rows as `logits` has."""
    size = plan[UNITS_OF]
    vectors = vectors_of(size)
    padded = vectors * VECTOR
    length = 1
    while length < size:
        length *= 2
    rows = plan[WORK_BASE] + plan[WORK_STRIDE] * number
    own = plan[SCRATCH] + number * 2 * padded
    return Scratch(work, rows, own, own + padded, sums, number * 2 * vectors, keys, number * length, size)


@device_function
def _first_equal(scratch: Any, largest: Any, counts: Any) -> Any:
    """The lowest id of the largest logit."""
    thread = cuda.threadIdx.x
    found = scratch.size
    for token in range(thread, scratch.size, THREADS):
        if scratch.work[scratch.row + token] == largest and token < found:
            found = np.int64(token)
    counts[thread] = found
    cuda.syncthreads()
    for other in range(THREADS):
        found = min(found, counts[other])
    cuda.syncthreads()
    return found


@device_function
def _first_beyond(scratch: Any, vector: Any, target: Any) -> Any:
    """The first of a vector's tokens with a power at which the running sum exceeds the target.

    If no sum does, the last with a power. Sums by doubling distances (Hillis and Steele, 1986).
    """
    running = cuda.local.array(16, np.float64)
    first = scratch.powers + vector * VECTOR
    for index in range(VECTOR):
        running[index] = scratch.work[first + index]
    distance = 1
    while distance < VECTOR:
        for back in range(VECTOR - distance):
            index = VECTOR - 1 - back
            running[index] += running[index - distance]
        distance *= 2
    found, last = -1, 0
    for index in range(VECTOR):
        if scratch.work[first + index] > ZERO:
            last = index
            if found < 0 and running[index] > target:
                found = index
    return vector * VECTOR + (found if found >= 0 else last)


@device_function
def _pick(scratch: Any, mass: Any, u: Any, counts: Any) -> Any:
    """The token at which the running sum of powers, `mass` in all, exceeds its share u, in [0, 1)."""
    if cuda.threadIdx.x == 0:
        target = rounded_product(u, mass)
        low, high = np.int64(0), np.int64(vectors_of(scratch.size))
        while low < high:  # the first vector whose running sum is above the target
            middle = (low + high) // 2
            if scratch.sums[scratch.sums_at + middle] <= target:
                low = middle + 1
            else:
                high = middle
        before = 0.0
        if low > 0:
            before = scratch.sums[scratch.sums_at + low - 1]
        counts[0] = _first_beyond(scratch, low, target - before)
    cuda.syncthreads()
    token = counts[0]
    cuda.syncthreads()
    return token


@functools.cache
def make_answer(draws: bool) -> Any:
    """The kernel that fills in the answers of rows whose head has been computed; a thread block each.

    Arguments: batch int32; work float32; sums float64; keys uint64; out uint32, answers by lane and then
    the pool, from word pool_at on; plan of the head; at: (pool_at, first row, 0). draws: whether
    tokens are drawn.
    """

    def answer(batch: Any, work: Any, sums: Any, keys: Any, out: Any, plan: Any, at: Any) -> None:
        box = cuda.shared.array((2, THREADS), types.float64)
        counts = cuda.shared.array(THREADS, types.int64)
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
            scratch = _scratch(work, sums, keys, plan, number)
            largest, all_finite = largest_of(scratch, box)
            finite = finite and all_finite
            kept = batch[record + (_LOGITS if draws else _OUTPUTS)]
            if kept >= 0:
                for index in range(thread, scratch.size, THREADS):
                    out[pool + kept + index] = as_word(work[scratch.row + index])
            if draws and all_finite:
                position, seed = _unsigned(batch, record + _POSITION), _unsigned(batch, record + _SEED)
                temperature, top_p = (
                    _float_at(batch, record + _TEMPERATURE),
                    _float_at(batch, record + _TOP_P),
                )
                top_k = np.int64(batch[record + _TOP_K]) & _LOW
                scale = ONE
                if temperature != ZERO:
                    scale = ONE / max(temperature, _LEAST_TEMPERATURE)
                total, mass = weigh(scratch, largest, scale, box)
                log_total = math.log(total)
                if temperature == ZERO:
                    token = _first_equal(scratch, largest, counts)
                else:
                    if 0 < top_k < scratch.size or top_p < ONE:
                        mass = truncate(scratch, largest, top_k, top_p, mass, box, counts)
                    token = _pick(scratch, mass, uniform(seed, position), counts)
                if thread == 0:
                    out[lane * ANSWER_WORDS] = np.uint32(token)
                    log_probability = log_probability_of(work[scratch.row + token], largest, log_total)
                    out[lane * ANSWER_WORDS + 1] = as_word(log_probability)
                count = np.int64(batch[record + _TOP_COUNT])
                if count > 0:
                    top = pool + batch[record + _TOP]
                    list_top(scratch, largest, log_total, out, top, count, box, counts)
        if thread == 0:
            out[lane * ANSWER_WORDS + 2] = np.uint32(1 if finite else 0)

    return cuda.jit(answer)


@functools.cache
def make_score() -> Any:
    """The kernel that puts down what the logits before a step gave the step's token, for the lanes that
    score.

    Arguments as for `make_answer`; at: (pool_at, first row, step).
    """

    def score(batch: Any, work: Any, sums: Any, keys: Any, out: Any, plan: Any, at: Any) -> None:
        box = cuda.shared.array((2, THREADS), types.float64)
        pool, first, step = at
        number = np.int64(cuda.blockIdx.x)
        if first + number >= batch[batch[COUNTS_AT] + step]:
            return
        row = batch[ROWS_AT] + (first + number) * ROW_WORDS
        lane = np.int64(batch[row + LANE_OF])
        record = batch[RECORDS_AT] + lane * RECORD_WORDS
        if (batch[record + _SCORE] >> _SCORE_BIT) & 1 == 0:
            return
        scratch = _scratch(work, sums, keys, plan, number)
        largest, finite = largest_of(scratch, box)
        log_probability = np.float32(math.nan)
        if finite:
            total, _ = weigh(scratch, largest, ONE, box)
            token = np.int64(batch[batch[INPUTS_AT] + batch[row + FIRST_INPUT] + step])
            log_probability = log_probability_of(work[scratch.row + token], largest, math.log(total))
        if cuda.threadIdx.x == 0:
            if not -math.inf < log_probability < math.inf:
                work[plan[BAD] + lane] = ONE
            out[pool + batch[record + _SCORES] + step] = as_word(log_probability)

    return cuda.jit(score)
