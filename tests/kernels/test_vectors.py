"""Vectors of 16 and what rows of logits are summed with: every operation against NumPy, sums bit by bit."""

# mypy: allow-untyped-calls
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels.cpu import powers, vectors
from keepgate_kernels.jit import part

INFINITE = [np.nan, np.inf, -np.inf]


def row_of(values: np.ndarray, rest: float) -> np.ndarray:
    """The values at the front of memory that goes on to a whole vector, with `rest` in it."""
    memory = np.full(-(-len(values) // vectors.WIDTH) * vectors.WIDTH, rest, np.float32)
    memory[: len(values)] = values
    return memory[: len(values)]


@part()
def _exp(x: Any, y: Any) -> None:
    for start in range(0, x.size, vectors.WIDTH):
        power = vectors.exp_nonpositive(vectors.load(vectors.address(x, 0), start))
        vectors.store(vectors.address(y, 0), start, power)


def exp(x: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-x.size // vectors.WIDTH) * vectors.WIDTH, np.float32)
    padded[: x.size] = x
    result = np.empty_like(padded)
    _exp(padded, result)
    return result[: x.size]


def test_exp_nonpositive() -> None:
    x = np.concatenate([np.linspace(-87, 0, 1_000_001), -np.geomspace(1e-38, 87, 200_001), [0.0]])
    x = x.astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(exp(x) - exact) / exact).max() < 3e-7
    assert exp(np.zeros(1, np.float32)).tolist() == [1.0]
    assert 0 < exp(np.array([-1e30], np.float32))[0] < 1e-37
    assert 0 < exp(np.array([-np.inf], np.float32))[0] < 1e-37


@part()
def _log(x: Any, y: Any) -> None:
    for n in range(x.size):
        y[n] = powers.log_of(x[n])


def test_log() -> None:
    around = np.float64(2.0) ** np.arange(21)[:, None] * (1 + np.linspace(-0.5, 0.5, 2_001))
    x = np.concatenate([[1.0, np.nextafter(1.0, 2.0), 2.0**20], 1 + np.geomspace(1e-16, 1e6, 5_001)])
    x = np.concatenate([x, around[around >= 1]])
    y = np.empty_like(x)
    _log(x, y)
    np.testing.assert_allclose(y, np.log(x), rtol=0, atol=1e-12)
    assert y[0] == 0.0


@part()
def _survey(x: Any) -> Any:
    return powers.survey(vectors.address(x, 0), x.size)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 100), place=st.integers(0, 99), rest=st.sampled_from([*INFINITE, 0.0, 3e38]))
def test_survey(size: int, place: int, rest: float) -> None:
    """It ignores what lies behind the row, and finds one number that is not finite anywhere in it."""
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert _survey(row_of(values, rest)) == (values.max(), True)
    values[place % size] = np.finfo(np.float32).max * (-1) ** place
    assert _survey(row_of(values, rest)) == (values.max(), True)
    for fault in INFINITE:
        values[place % size] = fault
        assert _survey(row_of(values, rest))[1] is False


@part()
def _weigh(x: Any, largest: Any, scale: Any, work: Any) -> Any:
    row, space = vectors.address(x, 0), vectors.address(work, 0)
    return powers.weigh(row, x.size, largest, scale, space), powers.total_power(row, x.size, largest)


def tree_sum(values: np.ndarray) -> np.ndarray:
    """Sums of rows of 16 float64 numbers [N, 16]: each with the one half the way on, until one is left."""
    while values.shape[1] > 1:
        values = values[:, : values.shape[1] // 2] + values[:, values.shape[1] // 2 :]
    return values[:, 0]


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 78, 1_000, 50_000])
@pytest.mark.parametrize("scale", [1.0, 1.25, 0.1])
def test_sums_have_one_order(size: int, scale: float) -> None:
    """To the last bit: a tree in every vector, then one vector after the other, in float64."""
    x = row_of(np.random.default_rng(size).standard_normal(size).astype(np.float32) * 3, np.nan)
    largest, factor = x.max(), np.float32(scale)
    count = -(-size // vectors.WIDTH)
    work = powers.make_work(size)
    (total, mass), alone = _weigh(x, largest, factor, work)

    def running(power: np.ndarray) -> np.ndarray:
        padded = np.zeros(count * vectors.WIDTH)
        padded[:size] = power
        return np.cumsum(tree_sum(padded.reshape(count, vectors.WIDTH)))

    power = exp((x - largest) * factor)
    stored = work[: count * vectors.WIDTH // 2].view(np.float32)
    np.testing.assert_array_equal(stored[:size], power)
    assert not stored[size:].any()
    np.testing.assert_array_equal(work[count * vectors.WIDTH : count * (vectors.WIDTH + 1)], running(power))
    assert mass == running(power)[-1]
    assert total == alone == running(exp(x - largest))[-1]


@part()
def _first_beyond(x: Any, target: Any) -> Any:
    return vectors.first_beyond(vectors.load(vectors.address(x, 0), 0), target)


@settings(max_examples=300, deadline=None)
@given(values=st.lists(st.sampled_from([0.0, 0.0, 1.0, 3.0, 0.5]), min_size=16, max_size=16))
def test_first_beyond(values: list[float]) -> None:
    """Sums of these are exact, so every border can be hit."""
    x, sums = np.array(values, np.float32), np.cumsum(values)
    if not x.any():
        return
    for target in np.arange(0, 24, 0.25):
        found = np.flatnonzero((sums > target) & (x > 0))
        assert _first_beyond(x, target) == (found[0] if found.size else np.flatnonzero(x)[-1])


def test_first_beyond_never_finds_a_zero() -> None:
    """Numbers so far apart that a sum over a zero can differ, by rounding, from the sum before it."""
    rng = np.random.default_rng(0)
    tiny = 2.0**-53
    for _ in range(500):
        x = rng.choice(np.array([0, 0, 0, 1, tiny, tiny, 1.5 * tiny, 2 * tiny], np.float32), 16)
        x[rng.integers(16)] = 1
        sums = np.cumsum(x.astype(np.float64))
        for target in np.concatenate([sums, np.nextafter(sums, 0), np.nextafter(sums, 99)]):
            assert x[_first_beyond(x, target)] > 0


DRAWS = """
import hashlib
import numpy as np
from keepgate_kernels import Sampling, sample, top_tokens

rng, digest = np.random.default_rng(0), hashlib.sha256()
for size in (1, 17, 78, 1_000, 20_000):
    for position in range(20):
        logits = (rng.standard_normal(size) * 3).astype(np.float32)
        for options in ({}, {"temperature": 0.8}, {"temperature": 1.0, "top_k": 40, "top_p": 0.9}):
            digest.update(repr(sample(logits, position, Sampling(**options))).encode())
        for column in top_tokens(logits, min(size, 40)):
            digest.update(column.tobytes())
print(digest.hexdigest())
"""
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+fma,+lzcnt,+popcnt,+sse4.2",
}
HOST = llvmlite.binding.get_host_cpu_features()


@pytest.mark.skipif(not (HOST.get("avx512f") and HOST.get("fma")), reason="needs a processor with AVX-512")
def test_vectors_of_half_the_width_give_the_same_bits(tmp_path: Path) -> None:
    found = set()
    for name, changes in (("native", {}), ("avx2", AVX2)):
        environment = os.environ | changes | {"KEEPGATE_KERNEL_CACHE": str(tmp_path / name)}
        command = [sys.executable, "-c", DRAWS]
        result = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
        found.add(result.stdout)
    assert len(found) == 1


def test_arrays_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(Exception, match="expected it contiguous"):
        _survey(np.zeros(64, np.float32)[::2])
