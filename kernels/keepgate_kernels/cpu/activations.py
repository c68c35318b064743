"""Activations in float32, written so that the loops around them vectorise.

tanh is a rational function, x P(x^2) / Q(x^2) on [-8, 8], with coefficients fitted by
`kernels/tools/fit_tanh.py` for the least relative error: 7e-9 before rounding, 3.1e-7 in float32. Beyond
the clamp it is constant, 2.3e-7 from 1, and its magnitude never exceeds 1.
"""

from __future__ import annotations

import numpy as np

from keepgate_kernels.jit import VECTOR_GATES, part

_f = np.float32
_CLAMP = _f(8.0)
_ONE = _f(1.0)
_HALF = _f(0.5)
_P1, _P2, _P3, _P4 = (
    _f(0.13444554805755615),
    _f(0.0035716656129807234),
    _f(2.1895784811931662e-05),
    _f(1.5232007655185953e-08),
)
_Q1, _Q2, _Q3, _Q4 = (
    _f(0.4677788317203522),
    _f(0.026164699345827103),
    _f(0.00034114028676413),
    _f(8.523089718437404e-07),
)

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
def tanh(x):
    """Hyperbolic tangent of a float32."""
    x = min(max(x, -_CLAMP), _CLAMP)
    u = x * x
    p = _ONE + u * (_P1 + u * (_P2 + u * (_P3 + u * _P4)))
    q = _ONE + u * (_Q1 + u * (_Q2 + u * (_Q3 + u * _Q4)))
    return x * p / q


@part(VECTOR_GATES)
def sigmoid(x):
    """Logistic function of a float32: (1 + tanh(x / 2)) / 2."""
    return _HALF + _HALF * tanh(_HALF * x)


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
