"""Activations of float32 vectors.

tanh is a rational function, x P(x^2) / Q(x^2) on [-8, 8], with coefficients fitted by
`kernels/tools/fit_tanh.py` for the least relative error: 7e-9 before rounding, 3.1e-7 in float32. Beyond
the clamp it is constant, 2.3e-7 from 1. A division takes as long as sixteen multiply-adds, so activations are
kept as fractions until the cell has put them together over one denominator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keepgate_kernels.cpu.simd import Emitter, Floats
from keepgate_kernels.jit import VECTOR_GATES, part

CLAMP = 8.0
P = (1.0, 0.13444554805755615, 0.0035716656129807234, 2.1895784811931662e-05, 1.5232007655185953e-08)
Q = (1.0, 0.4677788317203522, 0.026164699345827103, 0.00034114028676413, 8.523089718437404e-07)


class Fraction(NamedTuple):
    """over / under, with under in [1, 500]."""

    over: Floats
    under: Floats

    @property
    def value(self) -> Floats:
        return self.over / self.under


def tanh(e: Emitter, x: Floats) -> Fraction:
    """Hyperbolic tangent; NaN where x is."""
    x = e.clamp(x, e.constant(CLAMP))
    u = x * x
    return Fraction(x * e.polynomial(u, P), e.polynomial(u, Q))


def sigmoid(e: Emitter, x: Floats) -> Fraction:
    """Logistic function, (1 + tanh(x / 2)) / 2; NaN where x is."""
    half = tanh(e, x * e.constant(0.5))
    return Fraction(half.over + half.under, half.under + half.under)


_f = np.float32
_ONE = _f(1.0)
_LOG2_E = _f(1.4426950408889634)
_LN2_HIGH = _f(0.693359375)
_LN2_LOW = _f(-2.1219444e-4)
_ROUND = _f(12582912.0)
"""1.5 * 2**23: adding and subtracting it rounds a float32 of small magnitude to an integer."""
_EXP_FLOOR = _f(-87.0)
_E2, _E3, _E4, _E5, _E6 = (_f(1 / 2), _f(1 / 6), _f(1 / 24), _f(1 / 120), _f(1 / 720))
_EXPONENT_BIAS = np.int32(127)
_MANTISSA_BITS = np.int32(23)


@part(VECTOR_GATES)
def exp_nonpositive(x):
    """e**x of a float32 x <= 0, relative error below 3e-7; about 1e-38 below -87, never 0.

    x = n ln 2 + r with |r| <= ln(2) / 2 (Cody and Waite), then Taylor's polynomial of degree 6.
    """
    x = max(x, _EXP_FLOOR)
    n = (x * _LOG2_E + _ROUND) - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    polynomial = _ONE + r * (_ONE + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
    scale = np.int32((np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS)
    return polynomial * scale.view(np.float32)
