"""Activations of float32 vectors.

tanh is a rational function, x P(x^2) / Q(x^2) on [-8, 8], with coefficients fitted by
`kernels/tools/fit_tanh.py` for the least relative error: 7e-9 before rounding, 3.1e-7 in float32. Beyond
the clamp it is constant, 2.3e-7 from 1. A division takes as long as sixteen multiply-adds, so activations are
kept as fractions until the cell has put them together over one denominator.
"""

from __future__ import annotations

from typing import NamedTuple

from keepgate_kernels.cpu.simd import Emitter, Floats

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
    """Logistic function, (1 + tanh(x / 2)) / 2, the halves in the coefficients; NaN where x is."""
    x = e.clamp(x, e.constant(2 * CLAMP))
    u = x * x
    q = e.polynomial(u, _Q_OF_HALF)
    return Fraction(e.fma(x, e.polynomial(u, _P_OF_HALF), q), q + q)


_P_OF_HALF = tuple(coefficient / 2 / 4**power for power, coefficient in enumerate(P))
_Q_OF_HALF = tuple(coefficient / 4**power for power, coefficient in enumerate(Q))
