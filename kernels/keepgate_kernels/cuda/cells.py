"""Gates of one unit, float32: pre-activations to new state. Equations: `keepgate_kernels.reference`.

tanh and the logistic function are fractions, put together over one denominator, as on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from keepgate_kernels import tanh as fitted
from keepgate_kernels.cuda.target import device_function

_P0, _P1, _P2, _P3, _P4 = (np.float32(c) for c in fitted.P)
_Q0, _Q1, _Q2, _Q3, _Q4 = (np.float32(c) for c in fitted.Q)
_HP0, _HP1, _HP2, _HP3, _HP4 = (np.float32(c) for c in fitted.P_OF_HALF)
_HQ0, _HQ1, _HQ2, _HQ3, _HQ4 = (np.float32(c) for c in fitted.Q_OF_HALF)
_CLAMP, _WIDE_CLAMP = np.float32(fitted.CLAMP), np.float32(2 * fitted.CLAMP)
_LARGEST = np.finfo(np.float32).max


@device_function
def clamp(x: Any, bound: Any) -> Any:
    """x within [-bound, bound]; NaN where x is."""
    if x > bound:
        return bound
    if x < -bound:
        return -bound
    return x


@device_function
def is_finite(x: Any) -> Any:
    """Whether a number is neither NaN nor infinite."""
    return -_LARGEST <= x <= _LARGEST


@device_function
def tanh(x: Any) -> Any:
    """(over, under) of the hyperbolic tangent."""
    x = clamp(x, _CLAMP)
    u = x * x
    over = cuda.fma(cuda.fma(cuda.fma(cuda.fma(_P4, u, _P3), u, _P2), u, _P1), u, _P0)
    under = cuda.fma(cuda.fma(cuda.fma(cuda.fma(_Q4, u, _Q3), u, _Q2), u, _Q1), u, _Q0)
    return x * over, under


@device_function
def sigmoid(x: Any) -> Any:
    """(over, under) of the logistic function."""
    x = clamp(x, _WIDE_CLAMP)
    u = x * x
    p = cuda.fma(cuda.fma(cuda.fma(cuda.fma(_HP4, u, _HP3), u, _HP2), u, _HP1), u, _HP0)
    q = cuda.fma(cuda.fma(cuda.fma(cuda.fma(_HQ4, u, _HQ3), u, _HQ2), u, _HQ1), u, _HQ0)
    return cuda.fma(x, p, q), q + q


@device_function
def tanh_of(x: Any) -> Any:
    """The hyperbolic tangent."""
    over, under = tanh(x)
    return over / under


@device_function
def sigmoid_of(x: Any) -> Any:
    """The logistic function."""
    over, under = sigmoid(x)
    return over / under


@device_function
def gated(f: Any, c: Any, i: Any, g: Any) -> Any:
    """sigmoid(f) c + sigmoid(i) tanh(g)."""
    f_over, f_under = sigmoid(f)
    i_over, i_under = sigmoid(i)
    g_over, g_under = tanh(g)
    written = i_under * g_under
    return cuda.fma(i_over * g_over, f_under, f_over * c * written) / (f_under * written)


@device_function
def coupled(f: Any, c: Any, g: Any) -> Any:
    """sigmoid(f) c + (1 - sigmoid(f)) tanh(g)."""
    f_over, f_under = sigmoid(f)
    g_over, g_under = tanh(g)
    return cuda.fma(f_under - f_over, g_over, f_over * c * g_under) / (f_under * g_under)


@device_function
def shown(o: Any, c: Any) -> Any:
    """sigmoid(o) tanh(c)."""
    o_over, o_under = sigmoid(o)
    c_over, c_under = tanh(c)
    return o_over * c_over / (o_under * c_under)
