"""The most probable tokens of a row, by count or by mass: the CPU's cuts, by the threads of a block.

A cut is found by dividing intervals of logits in four: each try is one pass over the row, which measures at
three bounds. It is exact, and of equal logits those with the lowest ids come first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from keepgate_kernels.cuda.layout import AT_ONCE
from keepgate_kernels.cuda.powers import (
    LOWEST,
    ONE,
    OUT,
    ZERO,
    lies_in,
    put,
    read_logits,
    summed,
    taken,
)
from keepgate_kernels.cuda.ptx import as_float, as_word, rounded_product
from keepgate_kernels.cuda.target import at64, device_function, int32

PARTS = 16
"""Into which `find` divides a row, and the part that it finds again; each has at least two threads."""
_FOUR, _EIGHT = np.float32(4.0), np.float32(8.0)
_HALF, _TWO = np.float32(0.5), np.float32(2.0)
_LEAST_STEP = np.float32(2.0**-20)
"""A step that is visible beside a large logit, as a part of it."""
_HALVINGS = 24
"""Steps that halve an interval of logits; later ones halve its float32 numbers, so 32 more are enough."""
_MAGNITUDE, _WORD, SIGN = np.int64(0x7FFFFFFF), np.int64(0xFFFFFFFF), np.int64(1 << 31)


@device_function
def order_of(x: Any) -> Any:
    """An int64 in the order of the float32 numbers."""
    bits = np.int64(as_word(x))
    if bits >= SIGN:
        bits = -((bits & _MAGNITUDE) + 1)
    return bits


@device_function
def number_of(order: Any) -> Any:
    """The float32 of an order."""
    if order < 0:
        order = -(order + 1) + SIGN
    return as_float(np.uint32(order & _WORD))


@device_function
def between(low: Any, high: Any, tries: Any) -> Any:
    """A float32 from low on and below high; low only if there is no other."""
    middle = cuda.fma(low, _HALF, high * _HALF)
    if tries >= _HALVINGS or not low < middle < high:
        middle = number_of((order_of(low) + order_of(high)) >> 1)
    return middle


class Edge(NamedTuple):
    """How many ranks are >= bound, and what they measure: the sum of their powers, or their count."""

    bound: Any
    count: Any
    measure: Any


@device_function
def read_ranks(scratch: Any, first: Any, ranks: Any) -> None:
    """The thread's next ranks. ranks: float32 [AT_ONCE]."""
    for index in range(AT_ONCE):
        ranks[index] = scratch.work[at64(scratch.ranks + (first + index * scratch.threads))]


@device_function
def read_powers(scratch: Any, first: Any, ranks: Any, bound: Any, powers: Any) -> None:
    """The powers of the thread's next ranks, 0 for those below the bound. powers: float32 [AT_ONCE]."""
    for index in range(AT_ONCE):
        powers[index] = ZERO
        if ranks[index] >= bound:
            powers[index] = scratch.work[at64(scratch.powers + (first + index * scratch.threads))]


@device_function
def measure(scratch: Any, high: Any, middle: Any, low: Any, by_mass: Any) -> Any:
    """The edges at three bounds, none above the one before."""
    ranks = cuda.local.array(AT_ONCE, np.float32)
    powers = cuda.local.array(AT_ONCE, np.float32)
    count0 = count1 = count2 = int32(0)
    mass0 = mass1 = mass2 = 0.0
    for first in range(cuda.threadIdx.x, scratch.padded, AT_ONCE * scratch.threads):
        read_ranks(scratch, first, ranks)
        if by_mass:
            read_powers(scratch, first, ranks, low, powers)
        for index in range(AT_ONCE):
            if ranks[index] >= low:
                power = np.float64(powers[index]) if by_mass else 0.0
                count2 = int32(count2 + 1)
                mass2 += power
                if ranks[index] >= middle:
                    count1 = int32(count1 + 1)
                    mass1 += power
                    if ranks[index] >= high:
                        count0 = int32(count0 + 1)
                        mass0 += power
    put(scratch.counts, 0, count0)
    put(scratch.counts, 1, count1)
    put(scratch.counts, 2, count2)
    if by_mass:
        put(scratch.box, 0, mass0)
        put(scratch.box, 1, mass1)
        put(scratch.box, 2, mass2)
    cuda.syncthreads()
    count0, count1, count2 = taken(scratch.counts, 0), taken(scratch.counts, 1), taken(scratch.counts, 2)
    mass0, mass1, mass2 = np.float64(count0), np.float64(count1), np.float64(count2)
    if by_mass:
        mass0, mass1, mass2 = taken(scratch.box, 0), taken(scratch.box, 1), taken(scratch.box, 2)
    cuda.syncthreads()
    return Edge(high, count0, mass0), Edge(middle, count1, mass1), Edge(low, count2, mass2)


@device_function
def narrowed(need: Any, high: Any, low: Any, edges: Any) -> Any:
    """(the last edge that measures less than `need`, the first that measures as much): of high, three edges
    between, and low."""
    first, second, third = edges
    if first.measure >= need:
        low = first
    elif second.measure >= need:
        high, low = first, second
    elif third.measure >= need:
        high, low = second, third
    else:
        high = third
    return high, low


@device_function
def find(scratch: Any, target: Any, of_ties: Any, bound: Any, by_mass: Any) -> Any:
    """The first token at which the running sum of powers exceeds the target; if none does, the last with one.

    of_ties: only ranks that equal the bound have a power, or count 1 unless by_mass, and the sum, which is
    exact as they are equal, need only reach the target. What writes powers and ranks is to be followed by a
    barrier.
    """
    lanes = scratch.threads // PARTS
    part, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
    begin, length = np.int64(0), scratch.size
    while length > 1:
        share = (length + PARTS - 1) // PARTS
        first = begin + part * share
        total = 0.0
        for token in range(first + lane, min(first + share, begin + length), lanes):
            if not of_ties or scratch.work[at64(scratch.ranks + token)] == bound:
                total += np.float64(scratch.work[at64(scratch.powers + token)]) if by_mass else 1.0
        total = summed(total, lanes)
        if lane == 0:
            scratch.shares[part] = total
        cuda.syncthreads()
        chosen, skipped, running, open_ = np.int64(0), 0.0, 0.0, True
        for other in range(PARTS):
            if open_ and scratch.shares[other] > 0.0:
                chosen, skipped = np.int64(other), running
                running += scratch.shares[other]
                open_ = running < target if of_ties else running <= target
        cuda.syncthreads()
        target -= skipped
        begin += chosen * share
        length = min(share, length - chosen * share)
    return begin


@device_function
def drop_ties(scratch: Any, bound: Any, need: Any, by_mass: Any) -> None:
    """Of the ranks that equal the bound, keep the first whose measure reaches `need`, and at least one."""
    last = find(scratch, need, True, bound, by_mass)
    for token in range(cuda.threadIdx.x, scratch.size, scratch.threads):
        if token > last and scratch.work[at64(scratch.ranks + token)] == bound:
            scratch.work[at64(scratch.ranks + token)] = OUT


@device_function
def cut(scratch: Any, largest: Any, need: Any, by_mass: Any) -> Any:
    """The bound that the fewest of the best reach whose measure is at least `need`.

    Of equal logits at the bound, as many as are needed stay, by ascending id; the ranks of the others
    become -inf.
    """
    high = Edge(number_of(order_of(largest) + 1), np.int64(0), 0.0)
    low, near, step = high, ZERO, max(_TWO, abs(largest) * _LEAST_STEP)
    while low.measure < need:
        edges = measure(
            scratch,
            max(largest - near, LOWEST),
            max(largest - step, LOWEST),
            max(largest - _TWO * step, LOWEST),
            by_mass,
        )
        high, low = narrowed(need, high, low, edges)
        near, step = _FOUR * step, _EIGHT * step
    tries = 0
    while low.count - high.count > 1 and (by_mass or low.measure > need):
        middle = between(low.bound, high.bound, tries)
        if middle == low.bound:
            drop_ties(scratch, middle, need - high.measure, by_mass)
            break
        upper, lower = between(middle, high.bound, tries + 1), between(low.bound, middle, tries + 1)
        high, low = narrowed(need, high, low, measure(scratch, upper, middle, lower, by_mass))
        tries += 2
    return low.bound


@device_function
def enter(scratch: Any) -> None:
    """All logits are in the running."""
    logits = cuda.local.array(AT_ONCE, np.float32)
    for first in range(cuda.threadIdx.x, scratch.padded, AT_ONCE * scratch.threads):
        read_logits(scratch, first, logits)
        for index in range(AT_ONCE):
            place = first + index * scratch.threads
            rank = logits[index] if lies_in(scratch, place) else OUT
            scratch.work[at64(scratch.ranks + place)] = rank


@device_function
def keep(scratch: Any, bound: Any) -> Any:
    """Take what is below the bound out of ranks and powers; the sum of the powers that stay."""
    ranks = cuda.local.array(AT_ONCE, np.float32)
    powers = cuda.local.array(AT_ONCE, np.float32)
    mass = 0.0
    for first in range(cuda.threadIdx.x, scratch.padded, AT_ONCE * scratch.threads):
        read_ranks(scratch, first, ranks)
        read_powers(scratch, first, ranks, bound, powers)
        for index in range(AT_ONCE):
            place = first + index * scratch.threads
            if ranks[index] >= bound:
                mass += powers[index]
            else:
                scratch.work[at64(scratch.ranks + place)] = OUT
                scratch.work[at64(scratch.powers + place)] = ZERO
    put(scratch.box, 0, mass)
    cuda.syncthreads()
    mass = taken(scratch.box, 0)
    cuda.syncthreads()
    return mass


@device_function
def truncate(scratch: Any, largest: Any, top_k: Any, top_p: Any, mass: Any) -> Any:
    """Take out of the weighed powers what top_k and top_p leave out; the sum of what remains."""
    enter(scratch)
    if 0 < top_k < scratch.size:
        mass = keep(scratch, cut(scratch, largest, np.float64(top_k), False))
    if top_p < ONE:
        need = rounded_product(np.float64(top_p), mass)
        mass = keep(scratch, cut(scratch, largest, need, True))
    return mass
