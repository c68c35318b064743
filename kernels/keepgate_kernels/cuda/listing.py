"""The list of a row's most probable tokens: cut off, collected and sorted by the threads of a block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.layout import AT_ONCE
from keepgate_kernels.cuda.powers import LOWEST, ZERO, before, log_probability_of
from keepgate_kernels.cuda.ptx import as_word
from keepgate_kernels.cuda.ranking import SIGN, cut, enter, order_of, read_ranks
from keepgate_kernels.cuda.target import at64, device_function

_IDS, _ID_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)


@device_function
def collect(scratch: Any, bound: Any) -> None:
    """Write a key for every token at or above the bound, any order: larger ones come first in the list."""
    ranks = cuda.local.array(AT_ONCE, np.float32)
    count = np.int64(0)
    for first in range(cuda.threadIdx.x, scratch.padded, AT_ONCE * scratch.threads):
        read_ranks(scratch, first, ranks)
        for index in range(AT_ONCE):
            if ranks[index] >= bound:
                count += 1
    place = before(scratch.counts, count)
    for token in range(cuda.threadIdx.x, scratch.padded, scratch.threads):
        rank = scratch.work[at64(scratch.ranks + token)]
        if rank >= bound:
            # Adding 0 makes -0 and 0 the same; lower ids are larger, for they come first.
            order = np.uint64(order_of(rank + ZERO) + SIGN)
            scratch.keys[at64(scratch.keys_at + place)] = (order << _ID_BITS) | (_IDS - np.uint64(token))
            place += 1


@device_function
def sort(scratch: Any, count: Any) -> None:
    """Sort `count` keys, largest first, by a bitonic network (Batcher, 1968)."""
    thread = cuda.threadIdx.x
    length = 1
    while length < count:
        length *= 2
    for index in range(count + thread, length, scratch.threads):
        scratch.keys[scratch.keys_at + index] = np.uint64(0)
    size = 2
    while size <= length:
        distance = size // 2
        while distance > 0:
            cuda.syncthreads()
            for index in range(thread, length, scratch.threads):
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
def list_top(scratch: Any, largest: Any, log_total: Any, out: Any, at: Any, count: Any) -> None:
    """The `count` most probable tokens, best first: at `at` in out, uint32, ids, then log-probabilities."""
    enter(scratch)
    bound = LOWEST
    if count < scratch.size:
        bound = cut(scratch, largest, np.float64(count), False)
    collect(scratch, bound)
    sort(scratch, count)
    for index in range(cuda.threadIdx.x, count, scratch.threads):
        token = _IDS - (scratch.keys[scratch.keys_at + index] & _IDS)
        logit = scratch.work[scratch.row + np.int64(token)]
        out[at + index] = np.uint32(token)
        out[at + count + index] = as_word(log_probability_of(logit, largest, log_total))
