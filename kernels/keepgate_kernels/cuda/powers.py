"""Powers of e from a row of logits, their sums, and random numbers: as `keepgate_kernels.sampling` defines
them.

A thread block of one warp works on a row. A row is taken in vectors of 16 logits, as on the CPU: sums are
float64, within a vector a tree (element i with i + 8, then i with i + 4, and so on), then one vector after
the other. So a draw hardly ever differs from the CPU's for the same logits, and never with the company of a
row.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.layout import VECTOR
from keepgate_kernels.cuda.ptx import as_float, as_word
from keepgate_kernels.cuda.target import device_function
from keepgate_kernels.cuda.tiles import WARP

THREADS = WARP
LOWEST = np.finfo(np.float32).min
ZERO, ONE = np.float32(0), np.float32(1)
_FLOOR = np.float32(-87.0)
_LOG2_E, _ROUND = np.float32(1.4426950408889634), np.float32(12582912.0)
_LN2_HIGH, _LN2_LOW = np.float32(-0.693359375), np.float32(2.1219444e-4)
_C6, _C5, _C4, _C3, _C2 = (np.float32(1 / math.factorial(n)) for n in (6, 5, 4, 3, 2))
_WORD = np.int64(0xFFFFFFFF)
_MANTISSA_BITS = np.int64(23)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _SHIFT, _NONE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(0)
_FIVE, _SIX = np.uint64(5), np.uint64(6)


class Scratch(NamedTuple):
    """Where a row's work is. work: float32, with the logits at `row`, then powers and ranks in whole vectors.

    sums: float64, at `sums_at` running sums, then as many sums to add; keys: uint64, at keys_at. size: V.
    """

    work: Any
    row: Any
    powers: Any
    ranks: Any
    sums: Any
    sums_at: Any
    keys: Any
    keys_at: Any
    size: Any


@device_function
def vectors_of(size: Any) -> Any:
    """How many vectors a row has."""
    return (size + VECTOR - 1) // VECTOR


@device_function
def exp_nonpositive(x: Any) -> Any:
    """e**x for a float32 x <= 0, as on the CPU."""
    x = max(x, _FLOOR)
    rounded = cuda.fma(x, _LOG2_E, _ROUND)
    n = rounded - _ROUND
    r = cuda.fma(n, _LN2_LOW, cuda.fma(n, _LN2_HIGH, x))
    power = cuda.fma(cuda.fma(cuda.fma(cuda.fma(_C6, r, _C5), r, _C4), r, _C3), r, _C2)
    power = cuda.fma(cuda.fma(power, r, ONE), r, ONE)
    bits = np.int64(as_word(power)) + (np.int64(as_word(rounded)) << _MANTISSA_BITS)
    return as_float(np.uint32(bits & _WORD))


@device_function
def tree_sum(numbers: Any) -> Any:
    """The sum of 16 float64 numbers, by halves; they are overwritten."""
    for index in range(8):
        numbers[index] += numbers[index + 8]
    for index in range(4):
        numbers[index] += numbers[index + 4]
    return (numbers[0] + numbers[2]) + (numbers[1] + numbers[3])


@device_function
def largest_of(scratch: Any, box: Any) -> Any:
    """(the largest logit, whether all logits are finite). box: shared float64 [2, THREADS]."""
    thread = cuda.threadIdx.x
    largest, finite = LOWEST, ONE
    for index in range(thread, scratch.size, THREADS):
        logit = scratch.work[scratch.row + index]
        if not -math.inf < logit < math.inf:
            finite = ZERO
        elif logit > largest:
            largest = logit
    box[0, thread], box[1, thread] = largest, finite
    cuda.syncthreads()
    for other in range(THREADS):
        largest = max(largest, np.float32(box[0, other]))
        finite = min(finite, np.float32(box[1, other]))
    cuda.syncthreads()
    return largest, finite > ZERO


@device_function
def add_up(scratch: Any, from_second: Any, keep: Any, box: Any) -> Any:
    """The sum of the vectors' sums, in their order. keep: whether they become running sums.

    from_second: whether the sums to add are the second ones.
    """
    vectors = vectors_of(scratch.size)
    first = scratch.sums_at + (vectors if from_second else 0)
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        total = 0.0
        for vector in range(vectors):
            total += scratch.sums[first + vector]
            if keep:
                scratch.sums[first + vector] = total
        box[0, 0] = total
    cuda.syncthreads()
    total = box[0, 0]
    cuda.syncthreads()
    return total


@device_function
def weigh(scratch: Any, largest: Any, scale: Any, box: Any) -> Any:
    """Fill in powers e**((logit - largest) scale) and their running sums.

    Returns the sum of e**(logit - largest), and that of the powers.
    """
    plain = cuda.local.array(16, np.float64)
    scaled = cuda.local.array(16, np.float64)
    vectors = vectors_of(scratch.size)
    for vector in range(cuda.threadIdx.x, vectors, THREADS):
        for index in range(VECTOR):
            place = vector * VECTOR + index
            power = power_scaled = ZERO
            if place < scratch.size:
                distance = scratch.work[scratch.row + place] - largest
                power = exp_nonpositive(distance)
                power_scaled = power
                if scale != ONE:
                    power_scaled = exp_nonpositive(distance * scale)
            plain[index], scaled[index] = power, power_scaled
            scratch.work[scratch.powers + place] = power_scaled
        scratch.sums[scratch.sums_at + vectors + vector] = tree_sum(plain)
        scratch.sums[scratch.sums_at + vector] = tree_sum(scaled)
    total = add_up(scratch, True, False, box)
    return total, add_up(scratch, False, True, box)


@device_function
def log_probability_of(logit: Any, largest: Any, log_total: Any) -> Any:
    """A float32 from the float32 logits and the float64 log of the sum of powers."""
    return np.float32((np.float64(logit) - np.float64(largest)) - log_total)


@device_function
def uniform(seed: Any, position: Any) -> Any:
    """A float64 in [0, 1) with 53 random bits: Philox 4x32-10 (Salmon et al., 2011) of two uint64."""
    c0, c1, c2, c3 = position & _LOW, position >> _SHIFT, _NONE, _NONE
    k0, k1 = seed & _LOW, seed >> _SHIFT
    for _ in range(10):
        product0, product1 = c0 * _M0, c2 * _M1
        c0 = (product1 >> _SHIFT) ^ c1 ^ k0
        c2 = (product0 >> _SHIFT) ^ c3 ^ k1
        c1, c3 = product1 & _LOW, product0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return (np.float64(c0 >> _FIVE) * 67108864.0 + np.float64(c1 >> _SIX)) / 9007199254740992.0
