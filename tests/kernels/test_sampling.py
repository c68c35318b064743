"""Drawing tokens: known answers, a naive twin, and the frequencies that probability demands."""

# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels import Sampling, reference, sample, top_tokens
from keepgate_kernels.sampling import philox, uniform


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0x0000000000000000, 0x0000000000000000, (0x6627E8D5, 0xE169C58D)),
    ],
)
def test_philox_known_answers(counter: int, key: int, words: tuple[int, int]) -> None:
    """The all-zero vector of Random123's known answers for Philox 4x32-10."""
    assert tuple(int(w) for w in philox(np.uint64(counter), np.uint64(key))) == words


def naive_philox(counter: int, key: int) -> tuple[int, int]:
    """Philox 4x32-10 in Python's integers, from the paper's round function."""
    low = 0xFFFFFFFF
    c = [counter & low, counter >> 32, 0, 0]
    k0, k1 = key & low, key >> 32
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & low, (p0 >> 32) ^ c[3] ^ k1, p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c[0], c[1]


@given(counter=st.integers(0, 2**64 - 1), key=st.integers(0, 2**64 - 1))
def test_philox_naive(counter: int, key: int) -> None:
    got = tuple(int(word) for word in philox(np.uint64(counter), np.uint64(key)))
    assert got == naive_philox(counter, key)


def naive_sample(logits: np.ndarray, position: int, sampling: Sampling) -> tuple[int, set[int]]:
    """The draw in float64 NumPy, and the tokens it could have been."""
    if sampling.temperature == 0:
        return int(logits.argmax()), {int(logits.argmax())}
    order = np.lexsort((np.arange(logits.size), -logits))
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = (logits.astype(np.float64) - logits.max()) / np.float32(sampling.temperature)
    powers = np.exp(scaled)
    if sampling.top_p < 1:
        mass = np.cumsum(powers[order])
        order = order[: int((mass < np.float32(sampling.top_p) * mass[-1]).sum()) + 1]
    if not 0 < sampling.top_k < logits.size and sampling.top_p == 1:
        order = np.arange(logits.size)
    mass = np.cumsum(powers[order])
    u = float(uniform(np.uint64(sampling.seed), np.uint64(position)))
    return int(order[np.searchsorted(mass, u * mass[-1], side="right")]), set(order.tolist())


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 3, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=300, deadline=None)
@given(size=st.integers(1, 200), sampling=samplings, position=st.integers(0, 2**63), seed=st.integers(0, 99))
def test_like_the_naive_twin(size: int, sampling: Sampling, position: int, seed: int) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)
    expected, _ = naive_sample(logits, position, sampling)
    token, log_probability = sample(logits, position, sampling)
    assert token == expected
    assert log_probability == pytest.approx(reference.log_softmax(logits.astype(np.float64))[token], abs=3e-6)


def test_equal_logits_rank_by_token() -> None:
    logits = np.zeros(9, np.float32)
    assert sample(logits, 3, Sampling())[0] == 0
    tokens, log_probabilities = top_tokens(logits, 9)
    assert tokens.tolist() == list(range(9))
    np.testing.assert_allclose(log_probabilities, np.log(1 / 9), rtol=1e-6)
    drawn = {sample(logits, p, Sampling(temperature=1.0, top_k=2))[0] for p in range(100)}
    assert drawn == {0, 1}


def test_frequencies() -> None:
    """20,000 draws: chi-square with 5 degrees of freedom below its 0.9999 quantile; deterministic."""
    probabilities = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    logits = np.log(probabilities).astype(np.float32)
    draws = [sample(logits, p, Sampling(temperature=1.0, seed=11))[0] for p in range(20_000)]
    expected = 20_000 * probabilities
    chi_square = ((np.bincount(draws, minlength=6) - expected) ** 2 / expected).sum()
    assert chi_square < 25.75


def test_extreme_temperatures_and_logits() -> None:
    logits = np.array([-1e30, 3.0, 1e30, 2.0], np.float32)
    for temperature in (0.0, 1e-30, 1.0, 1e30):
        token, log_probability = sample(logits, 1, Sampling(temperature=temperature))
        assert np.isfinite(log_probability) or token != 2
        if temperature <= 1:
            assert token == 2


def test_top_k_of_the_whole_vocabulary_keeps_all() -> None:
    logits = np.random.default_rng(1).standard_normal(30).astype(np.float32)
    for position in range(100):
        everything = sample(logits, position, Sampling(temperature=1.5))
        for top_k in (30, 31, 2**32 - 1):
            assert sample(logits, position, Sampling(temperature=1.5, top_k=top_k)) == everything


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_k": 2**32},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_options_out_of_range(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=rf"^{name}: got "):
        Sampling(**option)


def test_top_tokens_checks_its_count() -> None:
    with pytest.raises(ValueError, match="expected 1 to the vocabulary size, 3"):
        top_tokens(np.zeros(3, np.float32), 4)
