"""Powers of e from a row of logits, their running sums, and the log of their total.

A row is `size` float32 numbers, V, at an address. It is read in vectors of 16, so memory goes on to the next
multiple of 16, whatever lies there.

The work space of a row, in the order of memory: powers, e to each logit's distance from the largest, float32
in whole vectors; ranks, the logits that are still in the running, the others -inf, likewise; running sums of
the powers, a float64 for each vector; and V uint64 to sort.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.vectors import (
    WIDTH,
    exp_nonpositive,
    first_of,
    has_nan,
    largest_of,
    load,
    maximum,
    multiply,
    multiply_add,
    splat,
    store,
    store_double,
    subtract,
    sum_of,
)
from keepgate_kernels.jit import part

_ALIGNMENT = 64
LOWEST = np.finfo(np.float32).min
ZERO, ONE = np.float32(0.0), np.float32(1.0)

_EXPONENT_BIAS = 1023
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_BITS_OF_ONE = _EXPONENT_BIAS << _MANTISSA_BITS
_SQRT_2 = math.sqrt(2.0)
_LN_2 = math.log(2.0)


def make_work(size: int) -> NDArray[np.float64]:
    """Work space for rows of `size` logits, at the beginning of a cache line."""
    vectors = -(-size // WIDTH)
    length = (WIDTH + 1) * vectors + size
    memory = np.empty(length + _ALIGNMENT // 8, np.float64)
    first = -memory.ctypes.data % _ALIGNMENT // memory.itemsize
    return memory[first : first + length]


@part(inline=True)
def vectors_of(size):
    """How many vectors a row has."""
    return (size + WIDTH - 1) // WIDTH


@part(inline=True)
def powers_at(vector):
    """Where a vector of powers lies in the work space, in float32 elements."""
    return vector * WIDTH


@part(inline=True)
def ranks_at(size, vector):
    """Where a vector of ranks lies in the work space, in float32 elements."""
    return (vectors_of(size) + vector) * WIDTH


@part(inline=True)
def sums_at(size, vector):
    """Where the running sum up to and including a vector lies in the work space, in float64 elements."""
    return vectors_of(size) * WIDTH + vector


@part(inline=True)
def order_at(size):
    """Where the integers lie in the work space, in uint64 elements."""
    return vectors_of(size) * (WIDTH + 1)


@part(inline=True)
def survey(row, size):
    """(the largest logit, whether all logits are finite)."""
    filler, zero = splat(LOWEST), splat(ZERO)
    largest, finite = filler, zero
    for start in range(0, size, WIDTH):
        logits = first_of(size - start, load(row, start), filler)
        largest = maximum(largest, logits)
        finite = multiply_add(logits, zero, finite)  # 0 times infinity is NaN
    return largest_of(largest), not has_nan(finite)


@part(inline=True)
def total_power(row, size, largest):
    """The sum of e**(logit - largest), of the same bits as that of `weigh`."""
    total, top, zero = 0.0, splat(largest), splat(ZERO)
    for start in range(0, size, WIDTH):
        power = exp_nonpositive(subtract(load(row, start), top))
        total += sum_of(first_of(size - start, power, zero))
    return total


@part(inline=True)
def weigh(row, size, largest, scale, work):
    """Fill in powers e**((logit - largest) scale) and their running sums.

    Returns the sum of e**(logit - largest), of the same bits as `total_power`, and the sum of the powers.
    """
    total, mass, top, factor, zero = 0.0, 0.0, splat(largest), splat(scale), splat(ZERO)
    for vector in range(vectors_of(size)):
        start = vector * WIDTH
        distance = subtract(load(row, start), top)
        power = first_of(size - start, exp_nonpositive(distance), zero)
        total += sum_of(power)
        if scale != ONE:
            power = first_of(size - start, exp_nonpositive(multiply(distance, factor)), zero)
            mass += sum_of(power)
        else:
            mass = total
        store(work, powers_at(vector), power)
        store_double(work, sums_at(size, vector), mass)
    return total, mass


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
def log_probability_of(logit, largest, log_total):
    """A float32 from the float32 logits and the float64 log of the sum of powers."""
    return np.float32((np.float64(logit) - np.float64(largest)) - log_total)
