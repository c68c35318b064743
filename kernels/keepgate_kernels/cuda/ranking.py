"""The most probable tokens of a row, by count or by mass: the CPU's cuts, by the threads of one warp.

A cut is found by halving intervals of logits: each try is one pass over the row. It is exact, and of equal
logits those with the lowest ids come first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.layout import VECTOR
from keepgate_kernels.cuda.powers import (
    LOWEST,
    ONE,
    THREADS,
    ZERO,
    add_up,
    log_probability_of,
    tree_sum,
    vectors_of,
)
from keepgate_kernels.cuda.ptx import as_float, as_word, rounded_product
from keepgate_kernels.cuda.target import device_function

_OUT = np.float32(-math.inf)
_HALF, _TWO = np.float32(0.5), np.float32(2.0)
_LEAST_STEP = np.float32(2.0**-20)
"""A step that is visible beside a large logit, as a part of it."""
_HALVINGS = 24
"""Tries that halve an interval of logits; later ones halve its float32 numbers, so 32 more are enough."""
_MAGNITUDE, _WORD, _SIGN = np.int64(0x7FFFFFFF), np.int64(0xFFFFFFFF), np.int64(1 << 31)
_IDS, _ID_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)


@device_function
def order_of(x: Any) -> Any:
    """An int64 in the order of the float32 numbers."""
    bits = np.int64(as_word(x))
    if bits >= _SIGN:
        bits = -((bits & _MAGNITUDE) + 1)
    return bits


@device_function
def number_of(order: Any) -> Any:
    """The float32 of an order."""
    if order < 0:
        order = -(order + 1) + _SIGN
    return as_float(np.uint32(order & _WORD))


@device_function
def between(low: Any, high: Any, tries: Any) -> Any:
    """A float32 from low on and below high; low only if there is no other."""
    middle = low * _HALF + high * _HALF
    if tries >= _HALVINGS or not low < middle < high:
        middle = number_of((order_of(low) + order_of(high)) >> 1)
    return middle


@device_function
def count_all(count: Any, counts: Any) -> Any:
    """The sum of a number of each thread. counts: shared int64 [THREADS]."""
    counts[cuda.threadIdx.x] = count
    cuda.syncthreads()
    total = np.int64(0)
    for other in range(THREADS):
        total += counts[other]
    cuda.syncthreads()
    return total


@device_function
def measure(scratch: Any, bound: Any, by_mass: Any, box: Any, counts: Any) -> Any:
    """(how many ranks are >= bound, what they measure: the sum of their powers, or their count)."""
    numbers = cuda.local.array(16, np.float64)
    vectors = vectors_of(scratch.size)
    count = 0
    for vector in range(cuda.threadIdx.x, vectors, THREADS):
        reached = 0
        for index in range(VECTOR):
            numbers[index] = 0.0
            place = vector * VECTOR + index
            if scratch.work[scratch.ranks + place] >= bound:
                reached += 1
                if by_mass:
                    numbers[index] = scratch.work[scratch.powers + place]
        count += reached
        if by_mass:
            scratch.sums[scratch.sums_at + vectors + vector] = tree_sum(numbers)
    total = count_all(count, counts)
    if by_mass:
        return total, add_up(scratch, True, False, box)
    return total, np.float64(total)


@device_function
def drop_ties(scratch: Any, bound: Any, need: Any, by_mass: Any) -> None:
    """Of the ranks that equal the bound, keep the first whose measure reaches `need`, and at least one."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        kept = 0.0
        for token in range(scratch.size):
            if scratch.work[scratch.ranks + token] == bound:
                if kept > 0.0 and kept >= need:
                    scratch.work[scratch.ranks + token] = _OUT
                elif by_mass:
                    kept += np.float64(scratch.work[scratch.powers + token])
                else:
                    kept += 1.0
    cuda.syncthreads()


@device_function
def cut(scratch: Any, largest: Any, need: Any, by_mass: Any, box: Any, counts: Any) -> Any:
    """The bound that the fewest of the best reach whose measure is at least `need`.

    Of equal logits at the bound, as many as are needed stay, by ascending id; the ranks of the others
    become -inf.
    """
    high, count_high, measure_high = number_of(order_of(largest) + 1), np.int64(0), 0.0
    step = max(_TWO, abs(largest) * _LEAST_STEP)
    low = largest
    count_low, measure_low = measure(scratch, low, by_mass, box, counts)
    while measure_low < need:
        high, count_high, measure_high = low, count_low, measure_low
        low = max(largest - step, LOWEST)
        step *= _TWO
        count_low, measure_low = measure(scratch, low, by_mass, box, counts)
    tries = 0
    while count_low - count_high > 1 and (by_mass or measure_low > need):
        middle = between(low, high, tries)
        if middle == low:
            drop_ties(scratch, low, need - measure_high, by_mass)
            break
        count, measured = measure(scratch, middle, by_mass, box, counts)
        if measured >= need:
            low, count_low, measure_low = middle, count, measured
        else:
            high, count_high, measure_high = middle, count, measured
        tries += 1
    return low


@device_function
def enter(scratch: Any) -> None:
    """All logits are in the running."""
    for place in range(cuda.threadIdx.x, vectors_of(scratch.size) * VECTOR, THREADS):
        rank = _OUT
        if place < scratch.size:
            rank = scratch.work[scratch.row + place]
        scratch.work[scratch.ranks + place] = rank
    cuda.syncthreads()


@device_function
def keep(scratch: Any, bound: Any, box: Any) -> Any:
    """Take what is below the bound out of ranks, powers and their running sums; the sum of all."""
    numbers = cuda.local.array(16, np.float64)
    for vector in range(cuda.threadIdx.x, vectors_of(scratch.size), THREADS):
        for index in range(VECTOR):
            place = vector * VECTOR + index
            if not scratch.work[scratch.ranks + place] >= bound:
                scratch.work[scratch.ranks + place] = _OUT
                scratch.work[scratch.powers + place] = ZERO
            numbers[index] = scratch.work[scratch.powers + place]
        scratch.sums[scratch.sums_at + vector] = tree_sum(numbers)
    return add_up(scratch, False, True, box)


@device_function
def truncate(scratch: Any, largest: Any, top_k: Any, top_p: Any, mass: Any, box: Any, counts: Any) -> Any:
    """Take out of the weighed powers what top_k and top_p leave out; the sum of what remains."""
    enter(scratch)
    if 0 < top_k < scratch.size:
        mass = keep(scratch, cut(scratch, largest, np.float64(top_k), False, box, counts), box)
    if top_p < ONE:
        need = rounded_product(np.float64(top_p), mass)
        mass = keep(scratch, cut(scratch, largest, need, True, box, counts), box)
    return mass


@device_function
def collect(scratch: Any, bound: Any, counts: Any) -> None:
    """Write a key for every token at or above the bound, any order: larger ones come first in the list."""
    thread = cuda.threadIdx.x
    share = (scratch.size + THREADS - 1) // THREADS
    begin, end = thread * share, min((thread + 1) * share, scratch.size)
    count = np.int64(0)
    for token in range(begin, end):
        if scratch.work[scratch.ranks + token] >= bound:
            count += 1
    counts[thread] = count
    cuda.syncthreads()
    place = np.int64(0)
    for other in range(thread):
        place += counts[other]
    cuda.syncthreads()
    for token in range(begin, end):
        rank = scratch.work[scratch.ranks + token]
        if rank >= bound:
            # Adding 0 makes -0 and 0 the same; lower ids are larger, for they come first.
            order = np.uint64(order_of(rank + ZERO) + _SIGN)
            scratch.keys[scratch.keys_at + place] = (order << _ID_BITS) | (_IDS - np.uint64(token))
            place += 1


@device_function
def sort(scratch: Any, count: Any) -> None:
    """Sort `count` keys, largest first, by a bitonic network (Batcher, 1968)."""
    thread = cuda.threadIdx.x
    length = 1
    while length < count:
        length *= 2
    for index in range(count + thread, length, THREADS):
        scratch.keys[scratch.keys_at + index] = np.uint64(0)
    size = 2
    while size <= length:
        distance = size // 2
        while distance > 0:
            cuda.syncthreads()
            for index in range(thread, length, THREADS):
                other = index ^ distance
                if other > index:
                    a, b = scratch.keys[scratch.keys_at + index], scratch.keys[scratch.keys_at + other]
                    falling = index & size == 0
                    if (a < b) == falling and a != b:
                        scratch.keys[scratch.keys_at + index] = b
                        scratch.keys[scratch.keys_at + other] = a
            distance //= 2
        size *= 2
    cuda.syncthreads()


@device_function
def list_top(
    scratch: Any, largest: Any, log_total: Any, out: Any, at: Any, count: Any, box: Any, counts: Any
) -> None:
    """The `count` most probable tokens, best first: at `at` in out, uint32, ids, then log-probabilities."""
    enter(scratch)
    bound = LOWEST
    if count < scratch.size:
        bound = cut(scratch, largest, np.float64(count), False, box, counts)
    collect(scratch, bound, counts)
    sort(scratch, count)
    for index in range(cuda.threadIdx.x, count, THREADS):
        token = _IDS - (scratch.keys[scratch.keys_at + index] & _IDS)
        logit = scratch.work[scratch.row + np.int64(token)]
        out[at + index] = np.uint32(token)
        out[at + count + index] = as_word(log_probability_of(logit, largest, log_total))
