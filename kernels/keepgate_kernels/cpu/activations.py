"""Activations of float32 vectors.

tanh is the rational function of `keepgate_kernels.tanh`. A division takes as long as sixteen multiply-adds,
so activations are kept as fractions until the cell has put them together over one denominator.
"""

from __future__ import annotations

from typing import NamedTuple

from keepgate_kernels.cpu.simd import Emitter, Floats
from keepgate_kernels.tanh import CLAMP, P_OF_HALF, Q_OF_HALF, P, Q


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
    q = e.polynomial(u, Q_OF_HALF)
    return Fraction(e.fma(x, e.polynomial(u, P_OF_HALF), q), q + q)
