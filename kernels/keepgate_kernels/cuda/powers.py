"""Powers of e from a row of logits, their sums, and random numbers: as `keepgate_kernels.sampling` defines
them.

A thread block works on a row, a warp or eight as `layout.row_threads` says of V. Sums are float64 and have
one order: thread i of T adds the numbers i, i + T, i + 2 T and so on; a warp adds what its lanes have by
halves (lane i with i ^ 16, then i ^ 8, and so on); warps are added one after the other. What is left out
counts as 0, so a sum of more is never less. The CPU adds in another order, and all of it in float64: a draw
hardly ever differs from the CPU's for the same logits, and never with the company of a row.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.layout import AT_ONCE
from keepgate_kernels.cuda.ptx import as_float, as_word
from keepgate_kernels.cuda.target import at64, device_function, int32
from keepgate_kernels.cuda.tiles import WARP

SLOTS = 3
"""Numbers of each thread that are added up at a time."""
OUT, LOWEST = np.float32(-math.inf), np.finfo(np.float32).min
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
ALL_LANES = 0xFFFFFFFF
_LAST_LANE, _LANE_BITS = WARP - 1, 5


class Scratch(NamedTuple):
    """Where a row's work is. work: float32, with the logits at `row`, then powers and ranks, `padded` each.

    keys: uint64, at keys_at. box: shared float64 [SLOTS, warps]; counts: the same of int64; shares: shared
    float64, one for each part of `ranking.find`. size: V. threads: of the block, known to the compiler.
    """

    work: Any
    row: Any
    powers: Any
    ranks: Any
    keys: Any
    keys_at: Any
    box: Any
    counts: Any
    shares: Any
    size: Any
    padded: Any
    threads: Any


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
def summed(number: Any, lanes: Any) -> Any:
    """The sum of a number of each of `lanes` lanes side by side, a power of two of them."""
    distance = lanes // 2
    while distance > 0:
        number += cuda.shfl_xor_sync(ALL_LANES, number, distance)
        distance //= 2
    return number


@device_function
def put(target: Any, slot: Any, number: Any) -> None:
    """Give a number of each thread to be added up, in a slot of `box` or `counts`; a barrier must follow."""
    number = summed(number, WARP)
    if cuda.threadIdx.x & _LAST_LANE == 0:
        target[slot, cuda.threadIdx.x >> _LANE_BITS] = number


@device_function
def taken(target: Any, slot: Any) -> Any:
    """The sum of what was put, to be taken by all threads; a barrier must follow before more is put."""
    total = target[slot, 0]
    for warp in range(1, target.shape[1]):
        total += target[slot, warp]
    return total


@device_function
def lowest(counts: Any, number: Any) -> Any:
    """The least of an int64 of each thread."""
    distance = WARP // 2
    while distance > 0:
        number = min(number, cuda.shfl_xor_sync(ALL_LANES, number, distance))
        distance //= 2
    if cuda.threadIdx.x & _LAST_LANE == 0:
        counts[0, cuda.threadIdx.x >> _LANE_BITS] = number
    cuda.syncthreads()
    for warp in range(counts.shape[1]):
        number = min(number, counts[0, warp])
    cuda.syncthreads()
    return number


@device_function
def before(counts: Any, number: Any) -> Any:
    """The sum of an int64 of each thread with a lower number."""
    lane, own, upto = cuda.threadIdx.x & _LAST_LANE, cuda.threadIdx.x >> _LANE_BITS, number
    distance = 1
    while distance < WARP:
        other = cuda.shfl_up_sync(ALL_LANES, upto, distance)
        if lane >= distance:
            upto += other
        distance *= 2
    if lane == _LAST_LANE:
        counts[0, own] = upto
    cuda.syncthreads()
    upto -= number
    for warp in range(own):
        upto += counts[0, warp]
    cuda.syncthreads()
    return upto


@device_function
def read_logits(scratch: Any, first: Any, logits: Any) -> None:
    """The thread's next logits; beyond the row the last one, for loads without a condition start together.

    logits: float32 [AT_ONCE].
    """
    for index in range(AT_ONCE):
        place = min(int32(first + index * scratch.threads), int32(scratch.size - 1))
        logits[index] = scratch.work[at64(scratch.row + place)]


@device_function
def lies_in(scratch: Any, place: Any) -> Any:
    """Whether a place is one of the row."""
    return int32(place) < int32(scratch.size)


@device_function
def largest_of(scratch: Any) -> Any:
    """(the largest logit, whether all are finite, the first of the thread's tokens with it, or V or more)."""
    logits = cuda.local.array(AT_ONCE, np.float32)
    own, strange, token = OUT, int32(0), int32(scratch.size)
    for first in range(cuda.threadIdx.x, scratch.size, AT_ONCE * scratch.threads):
        read_logits(scratch, first, logits)
        for index in range(AT_ONCE):
            logit = logits[index]
            token = int32(first + index * scratch.threads) if logit > own else token
            own = logit if logit > own else own
            strange = strange if abs(logit) < math.inf else int32(1)
    largest, distance = own, WARP // 2
    while distance > 0:
        largest = max(largest, cuda.shfl_xor_sync(ALL_LANES, largest, distance))
        distance //= 2
    if cuda.threadIdx.x & _LAST_LANE == 0:
        scratch.box[0, cuda.threadIdx.x >> _LANE_BITS] = largest
    put(scratch.counts, 0, strange)
    cuda.syncthreads()
    for warp in range(scratch.box.shape[1]):
        largest = max(largest, np.float32(scratch.box[0, warp]))
    finite = taken(scratch.counts, 0) == 0
    cuda.syncthreads()
    return largest, finite, np.int64(token) if own == largest else scratch.size


@device_function
def total_power(scratch: Any, largest: Any) -> Any:
    """The sum of e**(logit - largest), of the same bits as that of `weigh`."""
    logits = cuda.local.array(AT_ONCE, np.float32)
    total = 0.0
    for first in range(cuda.threadIdx.x, scratch.size, AT_ONCE * scratch.threads):
        read_logits(scratch, first, logits)
        for index in range(AT_ONCE):
            power = exp_nonpositive(logits[index] - largest)
            power = power if lies_in(scratch, first + index * scratch.threads) else ZERO
            total += np.float64(power)
    put(scratch.box, 0, total)
    cuda.syncthreads()
    total = taken(scratch.box, 0)
    cuda.syncthreads()
    return total


@device_function
def weigh(scratch: Any, largest: Any, scale: Any) -> Any:
    """Fill in powers e**((logit - largest) scale), and 0 beyond the row.

    Returns the sum of e**(logit - largest), and that of the powers.
    """
    logits = cuda.local.array(AT_ONCE, np.float32)
    total = mass = 0.0
    for first in range(cuda.threadIdx.x, scratch.padded, AT_ONCE * scratch.threads):
        read_logits(scratch, first, logits)
        for index in range(AT_ONCE):
            place, distance = first + index * scratch.threads, logits[index] - largest
            power = scaled = exp_nonpositive(distance)
            if scale != ONE:
                scaled = exp_nonpositive(distance * scale)
            power = power if lies_in(scratch, place) else ZERO
            scaled = scaled if lies_in(scratch, place) else ZERO
            total += np.float64(power)
            mass += np.float64(scaled)
            scratch.work[at64(scratch.powers + place)] = scaled
    put(scratch.box, 0, total)
    put(scratch.box, 1, mass)
    cuda.syncthreads()
    total, mass = taken(scratch.box, 0), taken(scratch.box, 1)
    cuda.syncthreads()
    return total, mass


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
