"""The float32 activations against float64, over their whole range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keepgate_kernels.cpu import activations
from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.intrinsics import intrinsic_of
from keepgate_kernels.cpu.memory import address_of
from keepgate_kernels.jit import part
from llvmlite import ir


def over(function: Callable[..., activations.Fraction]) -> Callable[[np.ndarray], np.ndarray]:
    """The activation, vector by vector."""

    def body(e: Any, source: ir.Value, target: ir.Value) -> None:
        e.store(function(e, e.load(source)).value, target)

    apply_to_vector, lanes = intrinsic_of(body), RUNG.lanes

    @part()
    def loop(x: int, y: int, size: int) -> None:
        for place in range(0, 4 * size, 4 * lanes):
            apply_to_vector(x + place, y + place)

    def apply(x: np.ndarray) -> np.ndarray:
        whole = np.zeros(-(-x.size // lanes) * lanes, np.float32)
        whole[: x.size] = x
        y = np.empty_like(whole)
        loop(address_of(whole), address_of(y), whole.size)
        return y[: x.size]

    return apply


tanh, sigmoid = over(activations.tanh), over(activations.sigmoid)


def everywhere(low: float, high: float) -> np.ndarray:
    """Evenly spaced points, and points that crowd around 0."""
    tiny = np.geomspace(1e-38, max(-low, high), 200_001)
    points = np.concatenate([np.linspace(low, high, 1_000_001), tiny, -tiny, [0.0]])
    return points[(points >= low) & (points <= high)].astype(np.float32)


def test_tanh() -> None:
    x = everywhere(-30, 30)
    y, exact = tanh(x), np.tanh(x.astype(np.float64))
    assert np.abs(y).max() <= 1.0
    nonzero = x != 0
    assert (np.abs(y - exact)[nonzero] / np.abs(exact[nonzero])).max() < 4e-7
    assert tanh(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(tanh(-x), -y)


def test_sigmoid() -> None:
    x = everywhere(-40, 40)
    y = sigmoid(x)
    assert y.min() >= 0.0
    assert y.max() <= 1.0
    assert np.abs(y - 1 / (1 + np.exp(-x.astype(np.float64)))).max() < 3e-7


def test_infinities_saturate_and_nan_stays() -> None:
    x = np.array([-np.inf, np.inf], np.float32)
    np.testing.assert_allclose(tanh(x), [-1, 1], atol=3e-7)
    np.testing.assert_allclose(sigmoid(x), [0, 1], atol=3e-7)
    nan = np.full(1, np.nan, np.float32)
    assert np.isnan(tanh(nan)).all()
    assert np.isnan(sigmoid(nan)).all()
