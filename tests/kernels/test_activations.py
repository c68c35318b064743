"""The float32 activations against float64, over their whole range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keepgate_kernels.cpu.activations import exp_nonpositive, sigmoid, tanh
from keepgate_kernels.jit import VECTOR_GATES, part


def over(function: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The activation in a loop like those of the kernels."""

    @part(VECTOR_GATES)
    def loop(x: np.ndarray, y: np.ndarray) -> None:
        for j in range(x.size):
            y[j] = function(x[j])

    def apply(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        loop(x, y)
        return y

    return apply


def everywhere(low: float, high: float) -> np.ndarray:
    """Evenly spaced points, and points that crowd around 0."""
    tiny = np.geomspace(1e-38, max(-low, high), 200_001)
    points = np.concatenate([np.linspace(low, high, 1_000_001), tiny, -tiny, [0.0]])
    return points[(points >= low) & (points <= high)].astype(np.float32)


def test_tanh() -> None:
    x = everywhere(-30, 30)
    y, exact = over(tanh)(x), np.tanh(x.astype(np.float64))
    assert np.abs(y).max() <= 1.0
    nonzero = x != 0
    assert (np.abs(y - exact)[nonzero] / np.abs(exact[nonzero])).max() < 4e-7
    assert over(tanh)(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(over(tanh)(-x), -y)


def test_sigmoid() -> None:
    x = everywhere(-40, 40)
    y = over(sigmoid)(x)
    assert y.min() >= 0.0
    assert y.max() <= 1.0
    assert np.abs(y - 1 / (1 + np.exp(-x.astype(np.float64)))).max() < 3e-7


def test_exp_nonpositive() -> None:
    x = everywhere(-87, 0)
    y, exact = over(exp_nonpositive)(x), np.exp(x.astype(np.float64))
    assert (np.abs(y - exact) / exact).max() < 3e-7
    assert over(exp_nonpositive)(np.zeros(1, np.float32))[0] == 1.0
    assert 0 < over(exp_nonpositive)(np.array([-1e30], np.float32))[0] < 1e-37


def test_infinities_saturate() -> None:
    x = np.array([-np.inf, np.inf], np.float32)
    np.testing.assert_allclose(over(tanh)(x), [-1, 1], atol=3e-7)
    np.testing.assert_allclose(over(sigmoid)(x), [0, 1], atol=3e-7)
