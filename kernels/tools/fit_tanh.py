"""Fit the rational tanh of `keepgate_kernels.tanh` and print its coefficients and errors.

tanh(x) = x P(u) / Q(u), u = x^2, on |x| <= 8: linearised least squares (Sanathanan and Koerner, 1963) on
Chebyshev nodes, reweighted (Lawson, 1961) until the relative error is nearly equal everywhere.

    python kernels/tools/fit_tanh.py
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

CLAMP = 8.0
DEGREE = 4
NODES = 4000
ITERATIONS = 60

Array = NDArray[np.float64]


def fit() -> tuple[float, Array, Array]:
    """(largest relative error, P, Q): coefficients [DEGREE + 1] in ascending powers of u, P[0] = Q[0] = 1."""
    x = CLAMP * np.sin(np.linspace(0, np.pi / 2, NODES + 1)[1:])
    target = np.tanh(x) / x
    basis = chebyshev.chebvander(2 * (x / CLAMP) ** 2 - 1, DEGREE)
    denominator, lawson = np.ones(NODES), np.ones(NODES)
    best: tuple[float, Array] = (np.inf, np.zeros(2 * DEGREE + 1))
    for _ in range(ITERATIONS):
        weight = np.sqrt(lawson) / (denominator * target)
        system = np.hstack([basis, -target[:, None] * basis[:, 1:]])
        solution = np.linalg.lstsq(system * weight[:, None], target * weight, rcond=1e-18)[0]
        denominator = 1 + basis[:, 1:] @ solution[DEGREE + 1 :]
        error = np.abs(basis @ solution[: DEGREE + 1] / (denominator * target) - 1)
        if error.max() < best[0]:
            best = (float(error.max()), np.asarray(solution, np.float64))
        lawson *= np.sqrt(error / error.max()) + 1e-6
        lawson /= lawson.mean()
    p = _powers_of_u(best[1][: DEGREE + 1])
    q = _powers_of_u(np.concatenate([[1.0], best[1][DEGREE + 1 :]]))
    return best[0], p / q[0], q / q[0]


def _powers_of_u(coefficients: Array) -> Array:
    """Chebyshev series in 2 u / CLAMP^2 - 1 to a polynomial in u."""
    polynomial, argument = np.poly1d([0.0]), np.poly1d([2 / CLAMP**2, -1.0])
    for power, coefficient in enumerate(chebyshev.cheb2poly(coefficients)):
        polynomial = polynomial + coefficient * argument**power
    return np.asarray(polynomial.coeffs[::-1], np.float64)


def main() -> None:
    error, p, q = fit()
    print(f"relative error before rounding: {error:.1e}")
    for name, coefficients in (("P", p), ("Q", q)):
        print(name, [float(np.float32(value)) for value in coefficients])


if __name__ == "__main__":
    main()
