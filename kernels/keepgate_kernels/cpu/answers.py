"""From a row of logits to a lane's answers: token, log-probability, list of the most probable, score.

All of it is a function of the logits, the options and the position, to the last bit: vectors are summed by
a tree, their sums in ascending order, in float64, wherever the row lies. `keepgate_kernels.sampling` says
what is drawn and how.

A row is V = size float32 numbers from element `first` of the contiguous array `rows` on. It is read in
vectors of 16, so memory goes on to the next multiple of 16, whatever lies there.

The work space of V logits is one float64 array: powers, e to each logit's distance from the largest; ranks,
the logits that are still in the running, the others -inf; running sums of the powers, one for each vector;
and V integers to sort.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.philox import uniform
from keepgate_kernels.cpu.vectors import (
    WIDTH,
    at_least,
    count_at_least,
    exp_nonpositive,
    first_beyond,
    first_equal,
    first_of,
    has_nan,
    largest_of,
    load,
    load_one,
    maximum,
    multiply,
    multiply_add,
    splat,
    store,
    store_one,
    subtract,
    sum_of,
)
from keepgate_kernels.jit import part

_DOUBLES = WIDTH // 2
"""Elements of the work space that a vector takes."""
_ALIGNMENT = 64
_MINUS_INFINITY = np.float32(-np.inf)
_LOWEST = np.finfo(np.float32).min
_ZERO, _ONE, _HALF, _TWO = np.float32(0.0), np.float32(1.0), np.float32(0.5), np.float32(2.0)
_LEAST_TEMPERATURE = np.float32(1e-6)
"""Below it the most probable token has all of the mass already; keeps 1 / temperature finite."""
_BELOW_ONE = 1.0 - 2.0**-52
"""A total times this is less than the total, however the product is rounded."""
_FIRST_STEP = np.float32(2.0)
_LEAST_STEP = np.float32(2.0**-20)
"""A step that is visible beside a large logit, as a part of it."""
_HALVINGS = 24
"""Cuts found by halving an interval of logits; after them its float32 numbers are halved, at most 32 times."""
_MAGNITUDE = np.int32(0x7FFFFFFF)
_SIGN_BIT = np.int32(31)
_ID_BITS = np.uint64(32)
_IDS = np.uint64(0xFFFFFFFF)
_HALF_RANGE = np.int64(1 << 31)
"""Added to an order it gives the order of unsigned numbers."""

_EXPONENT_BIAS = 1023
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_BITS_OF_ONE = _EXPONENT_BIAS << _MANTISSA_BITS
_SQRT_2 = math.sqrt(2.0)
_LN_2 = math.log(2.0)


def make_work(size: int) -> NDArray[np.float64]:
    """Work space for rows of `size` logits, on a cache line's border."""
    vectors = -(-size // WIDTH)
    length = (2 * _DOUBLES + 1) * vectors + size
    spare = _ALIGNMENT // np.dtype(np.float64).itemsize
    memory = np.empty(length + spare, np.float64)
    first = (-memory.ctypes.data % _ALIGNMENT) // memory.itemsize
    return memory[first : first + length]


# --- the normaliser ---


@part(inline=True)
def _vectors(size):
    return (size + WIDTH - 1) // WIDTH


@part(inline=True)
def survey(rows, first, size):
    """(the largest logit, whether all logits are finite)."""
    filler, zero = splat(_LOWEST), splat(_ZERO)
    largest, finite = filler, zero
    for start in range(0, size, WIDTH):
        row = first_of(size - start, load(rows, first + start), filler)
        largest = maximum(largest, row)
        finite = multiply_add(row, zero, finite)  # 0 times infinity is NaN
    return largest_of(largest), not has_nan(finite)


@part(inline=True)
def log_of(x):
    """Natural logarithm of a float64 x >= 1 to 1e-12, of the same bits on every processor.

    x = 2**e m with m about 1; log m = 2 artanh((m - 1) / (m + 1)), by its series.
    """
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> _MANTISSA_BITS) - _EXPONENT_BIAS
    m = np.int64((bits & _MANTISSA) | _BITS_OF_ONE).view(np.float64)
    if m > _SQRT_2:
        m *= 0.5
        exponent += 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    z2 = z * z
    low = (1.0 + z * (1.0 / 3.0)) + z2 * (1.0 / 5.0 + z * (1.0 / 7.0))
    high = (1.0 / 9.0 + z * (1.0 / 11.0)) + z2 * (1.0 / 13.0)
    return exponent * _LN_2 + 2.0 * s * (low + z2 * z2 * high)


@part(inline=True)
def _total(rows, first, size, largest):
    """The sum of e**(logit - largest)."""
    total, top, zero = 0.0, splat(largest), splat(_ZERO)
    for start in range(0, size, WIDTH):
        power = exp_nonpositive(subtract(load(rows, first + start), top))
        total += sum_of(first_of(size - start, power, zero))
    return total


@part(inline=True)
def _weigh(rows, first, size, largest, scale, work):
    """Fill in powers e**((logit - largest) scale) and their running sums; the sum of all."""
    total, top, factor, zero = 0.0, splat(largest), splat(scale), splat(_ZERO)
    vectors = _vectors(size)
    for vector in range(vectors):
        start = vector * WIDTH
        power = exp_nonpositive(multiply(subtract(load(rows, first + start), top), factor))
        power = first_of(size - start, power, zero)
        store(work, vector * _DOUBLES, power)
        total += sum_of(power)
        work[2 * _DOUBLES * vectors + vector] = total
    return total


@part(inline=True)
def _log_probability(logit, largest, log_total):
    return np.float32((np.float64(logit) - np.float64(largest)) - log_total)


# --- cuts: the most probable, by count or by mass ---


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
    vectors = _vectors(size)
    count, mass, zero = 0, 0.0, splat(_ZERO)
    for vector in range(vectors):
        ranks = load(work, (vectors + vector) * _DOUBLES)
        count += count_at_least(ranks, bound)
        if by_mass:
            mass += sum_of(at_least(ranks, bound, load(work, vector * _DOUBLES), zero))
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
        low = max(largest - step, _LOWEST)
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
    """Of the ranks that equal the bound, keep the first whose measure reaches `need`."""
    ranks = _DOUBLES * _vectors(size)
    kept = 0.0
    for token in range(size):
        if load_one(work, ranks, token) == bound:
            if kept > 0.0 and kept >= need:
                store_one(work, ranks, token, _MINUS_INFINITY)
            else:
                kept += load_one(work, 0, token) if by_mass else 1.0


@part()
def _enter(rows, first, size, work):
    """All logits are in the running."""
    vectors, out = _vectors(size), splat(_MINUS_INFINITY)
    for vector in range(vectors):
        start = vector * WIDTH
        store(
            work, (vectors + vector) * _DOUBLES, first_of(size - start, load(rows, first + start), out)
        )


@part()
def _keep(work, size, bound):
    """Take what is below the bound out of ranks, powers and their running sums; the sum of all."""
    vectors = _vectors(size)
    total, zero, out = 0.0, splat(_ZERO), splat(_MINUS_INFINITY)
    for vector in range(vectors):
        place = (vectors + vector) * _DOUBLES
        ranks = load(work, place)
        power = at_least(ranks, bound, load(work, vector * _DOUBLES), zero)
        store(work, vector * _DOUBLES, power)
        store(work, place, at_least(ranks, bound, ranks, out))
        total += sum_of(power)
        work[2 * _DOUBLES * vectors + vector] = total
    return total


# --- the draw ---


@part(inline=True)
def _most_probable(rows, first, size, largest):
    """The lowest id of the largest logit."""
    for start in range(0, size, WIDTH):
        lane = first_equal(load(rows, first + start), largest)
        if lane < WIDTH:
            return start + lane
    return 0


@part(inline=True)
def _pick(work, size, target):
    """The token at which the running sum of powers exceeds `target`, 0 <= target < the sum of all."""
    vectors = _vectors(size)
    sums, vector = 2 * _DOUBLES * vectors, 0
    for n in range(vectors):
        vector += work[sums + n] <= target
    before = work[sums + vector - 1] if vector > 0 else 0.0
    return vector * WIDTH + first_beyond(load(work, vector * _DOUBLES), target - before)


@part()
def _truncate(rows, first, size, largest, option, work):
    """Take out what top_k and top_p leave out of the powers; the sum of what remains."""
    mass = work[(2 * _DOUBLES + 1) * _vectors(size) - 1]
    _enter(rows, first, size, work)
    if 0 < option.top_k < size:
        mass = _keep(work, size, _cut(work, size, largest, np.float64(option.top_k), False))
    if option.top_p < _ONE:
        need = np.float64(option.top_p) * mass
        mass = _keep(work, size, _cut(work, size, largest, need, True))
    return mass


@part(inline=True)
def draw(rows, first, size, largest, position, option, work):
    """(token, log of the sum of e**(logit - largest)) for a row of finite logits.

    option: a record with the fields of `sampling.OPTIONS`.
    """
    if option.temperature == _ZERO:
        return _most_probable(rows, first, size, largest), log_of(_total(rows, first, size, largest))
    u = uniform(option.seed, position)
    mass = _weigh(rows, first, size, largest, _ONE, work)
    log_total = log_of(mass)
    if option.temperature != _ONE:
        scale = _ONE / max(option.temperature, _LEAST_TEMPERATURE)
        mass = _weigh(rows, first, size, largest, scale, work)
    if 0 < option.top_k < size or option.top_p < _ONE:
        mass = _truncate(rows, first, size, largest, option, work)
    return _pick(work, size, u * (mass * _BELOW_ONE)), log_total


# --- the list of the most probable ---


@part()
def _sift_down(heap, root, size):
    """Restore a heap whose smallest element is at 0, where only `root` may be out of place."""
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[root] <= heap[child]:
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


@part()
def _sort_descending(values):
    """Heapsort, in place: bounded by N log N whatever the order."""
    size = values.size
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(values, root, size)
    for last in range(size - 1, 0, -1):
        values[0], values[last] = values[last], values[0]
        _sift_down(values, 0, last)


@part()
def _list_top(rows, first, size, largest, log_total, work, top):
    """The most probable tokens, best first, equal ones by ascending id.

    top: float32 [2 k]; gets the bits of k uint32 ids, then the k log-probabilities.
    """
    count, vectors = top.size // 2, _vectors(size)
    ranks = _DOUBLES * vectors
    _enter(rows, first, size, work)
    bound = _LOWEST
    if count < size:
        bound = _cut(work, size, largest, np.float64(count), False)
    found = work[(2 * _DOUBLES + 1) * vectors :][:count].view(np.uint64)
    n = 0
    for start in range(0, size, WIDTH):
        if count_at_least(load(work, ranks + start // 2), bound) > 0:
            for token in range(start, start + WIDTH):
                rank = load_one(work, ranks, token)
                if rank >= bound:
                    # Adding 0 makes -0 and 0 the same; lower ids are larger, for they come first.
                    order = np.uint64(np.int64(_order(rank + _ZERO)) + _HALF_RANGE)
                    found[n] = (order << _ID_BITS) | (_IDS - np.uint64(token))
                    n += 1
    _sort_descending(found)
    for n in range(count):
        token = np.int64(_IDS - (found[n] & _IDS))
        top[n] = np.uint32(token).view(np.float32)
        top[count + n] = _log_probability(load_one(rows, first, token), largest, log_total)


# --- what the step calls ---


@part(inline=True)
def answer(batch, lane, rows, first, size, draws, work):
    """Fill in a predicting lane's answers from its row of logits or, unless `draws`, of outputs."""
    record = batch.lanes[lane]
    largest, finite = survey(rows, first, size)
    kept = record.logits if draws else record.outputs
    if kept >= 0:
        for n in range(size):
            batch.pool[kept + n] = load_one(rows, first, n)
    if not finite:
        record.finite = False
    elif draws:
        token, log_total = draw(rows, first, size, largest, record.position, record, work)
        record.token = token
        record.log_probability = _log_probability(load_one(rows, first, token), largest, log_total)
        if record.top_count > 0:
            top = batch.pool[record.top : record.top + 2 * np.int64(record.top_count)]
            _list_top(rows, first, size, largest, log_total, work, top)


@part(inline=True)
def score(batch, lane, step, rows, first, size):
    """Put down the log-probability that the logits before input `step` of a scoring lane gave it."""
    record = batch.lanes[lane]
    largest, finite = survey(rows, first, size)
    log_probability = np.float32(np.nan)
    if finite:
        logit = load_one(rows, first, np.int64(batch.tokens[record.offset + step]))
        log_probability = _log_probability(logit, largest, log_of(_total(rows, first, size, largest)))
    if not np.isfinite(log_probability):
        record.finite = False
    batch.pool[record.scores + step] = log_probability


@part()
def draw_alone(row, position, option, work):
    """(token, log-probability) of a row of finite logits [V], as `answer` has it."""
    largest, _ = survey(row, 0, row.size)
    token, log_total = draw(row, 0, row.size, largest, position, option, work)
    return token, _log_probability(row[token], largest, log_total)


@part()
def list_alone(row, work, top):
    """The list of a row of finite logits [V], as `answer` has it; top as in `_list_top`."""
    largest, _ = survey(row, 0, row.size)
    log_total = log_of(_total(row, 0, row.size, largest))
    _list_top(row, 0, row.size, largest, log_total, work, top)
