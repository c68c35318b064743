"""The most probable tokens, by count or by mass, without sorting the others.

A cut is found by halving intervals of logits: each try is one pass over the row. It is exact, and of equal
logits those with the lowest ids come first.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.cpu.powers import (
    LOWEST,
    ONE,
    ZERO,
    log_probability_of,
    order_at,
    powers_at,
    ranks_at,
    sums_at,
    vectors_of,
)
from keepgate_kernels.cpu.vectors import (
    WIDTH,
    count_at_least,
    first_of,
    load,
    load_double,
    load_float,
    load_long,
    splat,
    store,
    store_double,
    store_float,
    store_long,
    sum_of,
    where_at_least,
)
from keepgate_kernels.jit import part

_MINUS_INFINITY = np.float32(-np.inf)
_HALF, _TWO = np.float32(0.5), np.float32(2.0)
_FIRST_STEP = np.float32(2.0)
_LEAST_STEP = np.float32(2.0**-20)
"""A step that is visible beside a large logit, as a part of it."""
_HALVINGS = 24
"""Tries that halve an interval of logits; later ones halve its float32 numbers, so 32 more are enough."""
_MAGNITUDE = np.int32(0x7FFFFFFF)
_SIGN_BIT = np.int32(31)
_HALF_RANGE = np.int64(1 << 31)
"""Added to an order it gives the order of unsigned numbers."""
_ID_BITS = np.uint64(32)
_IDS = np.uint64(0xFFFFFFFF)


@part(inline=True)
def _order(x):
    """An int32 in the order of the float32 numbers."""
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> _SIGN_BIT) & _MAGNITUDE))


@part(inline=True)
def _number(order):
    """The float32 of an order."""
    return np.int32(order ^ ((order >> _SIGN_BIT) & _MAGNITUDE)).view(np.float32)


@part(inline=True)
def _between(low, high, tries):
    """A float32 from low on and below high; low only if there is no other."""
    middle = low * _HALF + high * _HALF
    if tries >= _HALVINGS or not low < middle < high:
        middle = _number(np.int32((np.int64(_order(low)) + np.int64(_order(high))) >> 1))
    return middle


@part()
def _measure(work, size, bound, by_mass):
    """(how many ranks are >= bound, what they measure: the sum of their powers, or their count)."""
    count, mass, zero = 0, 0.0, splat(ZERO)
    for vector in range(vectors_of(size)):
        ranks = load(work, ranks_at(size, vector))
        reached = count_at_least(ranks, bound)
        count += reached
        if by_mass and reached > 0:  # most vectors of a large vocabulary hold none
            mass += sum_of(where_at_least(ranks, bound, load(work, powers_at(vector)), zero))
    return count, mass if by_mass else np.float64(count)


@part()
def _cut(work, size, largest, need, by_mass):
    """The bound that the fewest of the best reach whose measure is at least `need`.

    Of equal logits at the bound, as many as are needed stay, by ascending id; the ranks of the others
    become -inf.
    """
    high, count_high, measure_high = _number(np.int32(_order(largest) + 1)), 0, 0.0
    step = max(_FIRST_STEP, abs(largest) * _LEAST_STEP)
    low = largest
    count_low, measure_low = _measure(work, size, low, by_mass)
    while measure_low < need:
        high, count_high, measure_high = low, count_low, measure_low
        low = max(largest - step, LOWEST)
        step *= _TWO
        count_low, measure_low = _measure(work, size, low, by_mass)
    tries = 0
    while count_low - count_high > 1 and (by_mass or measure_low > need):
        middle = _between(low, high, tries)
        if middle == low:
            _drop_ties(work, size, low, need - measure_high, by_mass)
            break
        count, measure = _measure(work, size, middle, by_mass)
        if measure >= need:
            low, count_low, measure_low = middle, count, measure
        else:
            high, count_high, measure_high = middle, count, measure
        tries += 1
    return low


@part()
def _drop_ties(work, size, bound, need, by_mass):
    """Of the ranks that equal the bound, keep the first whose measure reaches `need`, and at least one."""
    kept = 0.0
    for token in range(size):
        if load_float(work, ranks_at(size, 0) + token) == bound:
            if kept > 0.0 and kept >= need:
                store_float(work, ranks_at(size, 0) + token, _MINUS_INFINITY)
            else:
                kept += load_float(work, powers_at(0) + token) if by_mass else ONE


@part()
def _enter(row, size, work):
    """All logits are in the running."""
    out = splat(_MINUS_INFINITY)
    for vector in range(vectors_of(size)):
        start = vector * WIDTH
        store(work, ranks_at(size, vector), first_of(size - start, load(row, start), out))


@part()
def _keep(work, size, bound):
    """Take what is below the bound out of ranks, powers and their running sums; the sum of all."""
    total, zero, out = 0.0, splat(ZERO), splat(_MINUS_INFINITY)
    for vector in range(vectors_of(size)):
        ranks = load(work, ranks_at(size, vector))
        power = where_at_least(ranks, bound, load(work, powers_at(vector)), zero)
        store(work, powers_at(vector), power)
        store(work, ranks_at(size, vector), where_at_least(ranks, bound, ranks, out))
        total += sum_of(power)
        store_double(work, sums_at(size, vector), total)
    return total


@part()
def truncate(row, size, largest, option, work):
    """Take out of the weighed powers what top_k and top_p leave out; the sum of what remains."""
    mass = load_double(work, sums_at(size, vectors_of(size) - 1))
    _enter(row, size, work)
    if 0 < option.top_k < size:
        mass = _keep(work, size, _cut(work, size, largest, np.float64(option.top_k), False))
    if option.top_p < ONE:
        need = np.float64(option.top_p) * mass
        mass = _keep(work, size, _cut(work, size, largest, need, True))
    return mass


@part()
def _sift_down(heap, begin, root, size):
    """Restore a heap whose smallest number is first, where only `root` may be out of place."""
    moved = load_long(heap, begin + root)
    child = 2 * root + 1
    while child < size:
        if child + 1 < size and load_long(heap, begin + child + 1) < load_long(heap, begin + child):
            child += 1
        smallest = load_long(heap, begin + child)
        if moved <= smallest:
            break
        store_long(heap, begin + root, smallest)
        root, child = child, 2 * child + 1
    store_long(heap, begin + root, moved)


@part()
def _sort_descending(values, begin, size):
    """Heapsort, in place: N log N steps whatever the order was."""
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(values, begin, root, size)
    for last in range(size - 1, 0, -1):
        smallest = load_long(values, begin)
        store_long(values, begin, load_long(values, begin + last))
        store_long(values, begin + last, smallest)
        _sift_down(values, begin, 0, last)


@part()
def list_top(row, size, largest, log_total, work, top, count):
    """The `count` most probable tokens, best first.

    top: the address of count uint32 ids, then count float32 log-probabilities; gets them.
    """
    _enter(row, size, work)
    bound = LOWEST
    if count < size:
        bound = _cut(work, size, largest, np.float64(count), False)
    begin, n = order_at(size), 0
    for vector in range(vectors_of(size)):
        if count_at_least(load(work, ranks_at(size, vector)), bound) > 0:
            for token in range(vector * WIDTH, (vector + 1) * WIDTH):
                rank = load_float(work, ranks_at(size, 0) + token)
                if rank >= bound:
                    # Adding 0 makes -0 and 0 the same; lower ids are larger, for they come first.
                    order = np.uint64(np.int64(_order(rank + ZERO)) + _HALF_RANGE)
                    store_long(work, begin + n, (order << _ID_BITS) | (_IDS - np.uint64(token)))
                    n += 1
    _sort_descending(work, begin, count)
    for n in range(count):
        token = np.uint32(_IDS - (load_long(work, begin + n) & _IDS))
        log_probability = log_probability_of(load_float(row, np.int64(token)), largest, log_total)
        store_float(top, n, token.view(np.float32))
        store_float(top, count + n, log_probability)
