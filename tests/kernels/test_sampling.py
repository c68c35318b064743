"""Drawing tokens: known answers, a naive twin, and the frequencies that probability demands."""

# mypy: allow-untyped-calls
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels import Sampling, reference, sample, top_tokens
from keepgate_kernels.cpu import answers, powers, vectors
from keepgate_kernels.cpu.philox import philox, uniform
from keepgate_kernels.jit import part

SIZES = [1, 2, 15, 16, 17, 78, 1_000, 50_000]
"""Vocabularies around whole vectors of 16, the bundled models', and large ones."""

MARGIN = 2e-6
"""Share of the mass by which float32 powers may move the border between two tokens."""


GREATEST_UNIFORM = 1 - 2.0**-53


@part()
def _pick(row: Any, work: Any, u: Any) -> Any:
    place, space = vectors.address(row, 0), vectors.address(work, 0)
    largest, _ = powers.survey(place, row.size)
    _, mass = powers.weigh(place, row.size, largest, np.float32(1), space)
    return answers._pick(space, row.size, mass, u)


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


def ranking(logits: np.ndarray) -> np.ndarray:
    """Token ids, the most probable first, equal ones by ascending id."""
    return np.lexsort((np.arange(logits.size), -logits))


def naive_candidates(logits: np.ndarray, position: int, sampling: Sampling) -> set[int]:
    """The draw in float64 NumPy: its token, and those that win within a margin of the borders."""
    if sampling.temperature == 0:
        return {int(logits.argmax())}
    powers = np.exp((logits.astype(np.float64) - logits.max()) / np.float32(sampling.temperature))
    order = ranking(logits)
    if sampling.top_k:
        order = order[: sampling.top_k]
    lengths = {len(order)}
    if sampling.top_p < 1:
        mass = np.cumsum(powers[order])
        near = MARGIN * np.array([-1, 0, 1])
        needs = (np.float32(sampling.top_p) + near) * mass[-1]
        lengths = {min(int(n) + 1, len(order)) for n in np.searchsorted(mass, needs, side="left")}
    u = float(uniform(np.uint64(sampling.seed), np.uint64(position)))
    tokens = set()
    for length in lengths:
        kept = np.sort(order[:length])
        mass = np.cumsum(powers[kept])
        for near_u in (u - MARGIN, u, u + MARGIN):
            index = np.searchsorted(mass, near_u * mass[-1], side="right")
            tokens.add(int(kept[min(int(index), length - 1)]))
    return tokens


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 3, 40, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=400, deadline=None)
@given(
    size=st.one_of(st.sampled_from(SIZES[:-1]), st.integers(1, 200)),
    sampling=samplings,
    position=st.integers(0, 2**63),
    seed=st.integers(0, 99),
    step=st.sampled_from([0.0, 0.5, 4.0]),
)
def test_like_the_naive_twin(size: int, sampling: Sampling, position: int, seed: int, step: float) -> None:
    """Logits of any value, and of so few values that most tokens are as probable as others."""
    logits = (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)
    if step:
        logits = np.round(logits / np.float32(step)) * np.float32(step)
    expected = naive_candidates(logits, position, sampling)
    token, log_probability = sample(logits, position, sampling)
    assert token in expected
    assert len(expected) <= 3
    exact = reference.log_softmax(logits.astype(np.float64))[token]
    assert log_probability == pytest.approx(exact, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_vocabularies(size: int) -> None:
    logits = (np.random.default_rng(size).standard_normal(size) * 2).astype(np.float32)
    drawn = [
        Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=9)
        for temperature in (0.0, 0.8, 1.0)
        for top_k in (0, min(size, 40))
        for top_p in (1.0, 0.9)
    ]
    exact = reference.log_softmax(logits.astype(np.float64))
    for sampling in drawn:
        for position in range(8):
            token, log_probability = sample(logits, position, sampling)
            assert token in naive_candidates(logits, position, sampling)
            assert log_probability == pytest.approx(exact[token], abs=1e-6, rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    size=st.one_of(st.sampled_from(SIZES), st.integers(1, 200)),
    share=st.floats(0, 1),
    levels=st.sampled_from([1, 2, 5, 10_000_000]),
    scale=st.sampled_from([1e-6, 1.0, 1e30]),
    seed=st.integers(0, 99),
)
def test_the_list_is_sorted(size: int, share: float, levels: int, scale: float, seed: int) -> None:
    """Against a sort; `levels` is how many values the logits have."""
    rng = np.random.default_rng(seed)
    logits = ((rng.integers(0, levels, size) - levels // 2) * np.float32(scale)).astype(np.float32)
    logits[rng.random(size) < 0.1] *= -1  # some zeros become negative ones, which are as probable
    count = 1 + int(share * (size - 1))
    tokens, log_probabilities = top_tokens(logits, count)
    assert tokens.dtype == np.uint32
    np.testing.assert_array_equal(tokens, ranking(logits)[:count])
    exact = reference.log_softmax(logits.astype(np.float64))[tokens]
    np.testing.assert_allclose(log_probabilities, exact, atol=1e-6, rtol=1e-6)


def test_the_list_and_the_draw_agree() -> None:
    logits = np.random.default_rng(5).standard_normal(78).astype(np.float32)
    tokens, log_probabilities = top_tokens(logits, 78)
    listed = dict(zip(tokens.tolist(), log_probabilities.tolist(), strict=True))
    assert sample(logits, 0, Sampling()) == (tokens[0], log_probabilities[0])
    for position in range(50):
        token, log_probability = sample(logits, position, Sampling(temperature=0.7, top_k=30))
        assert token in tokens[:30]
        assert log_probability == listed[token]


def test_equal_logits_rank_by_token() -> None:
    logits = np.zeros(9, np.float32)
    assert sample(logits, 3, Sampling())[0] == 0
    tokens, log_probabilities = top_tokens(logits, 9)
    assert tokens.tolist() == list(range(9))
    np.testing.assert_allclose(log_probabilities, np.log(1 / 9), rtol=1e-6)
    for sampling in (Sampling(temperature=1.0, top_k=2), Sampling(temperature=1.0, top_p=0.2)):
        assert {sample(logits, p, sampling)[0] for p in range(100)} == {0, 1}
    both = {sample(logits, p, Sampling(temperature=1.0, top_k=4, top_p=0.5))[0] for p in range(100)}
    assert both == {0, 1}
    least = {sample(logits, p, Sampling(temperature=1.0, top_p=1e-60))[0] for p in range(100)}
    assert least == {0}


def chi_square(draws: list[int], expected: np.ndarray) -> float:
    counts = np.bincount(draws, minlength=expected.size)
    assert not counts[expected == 0].any()
    kept = expected > 0
    return float(((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies(temperature: float) -> None:
    """20,000 draws: chi-square with 5 degrees of freedom below its 0.9999 quantile; deterministic."""
    probabilities = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    logits = (np.log(probabilities) * temperature).astype(np.float32)
    sampling = Sampling(temperature=temperature, seed=11)
    draws = [sample(logits, p, sampling)[0] for p in range(20_000)]
    assert chi_square(draws, 20_000 * probabilities) < 25.75


def test_frequencies_of_what_is_kept() -> None:
    """60 tokens, 20 by top_k, 14 of them by top_p: 13 degrees of freedom, 0.9999 quantile."""
    rng = np.random.default_rng(3)
    logits = np.log(rng.permutation(np.arange(1.0, 61.0))).astype(np.float32)
    weights = np.round(np.exp(logits.astype(np.float64)))
    order = ranking(logits)[:20]
    reached = np.cumsum(weights[order]) / weights[order].sum()
    kept = order[: int((reached < 0.7).sum()) + 1]
    assert len(kept) == 14
    expected = np.zeros(60)
    expected[kept] = 20_000 * weights[kept] / weights[kept].sum()
    sampling = Sampling(temperature=1.0, top_k=20, top_p=0.7, seed=2)
    assert chi_square([sample(logits, p, sampling)[0] for p in range(20_000)], expected) < 40.87


def test_extreme_temperatures_and_logits() -> None:
    logits = np.array([-1e30, 3.0, 1e30, 2.0], np.float32)
    for temperature in (0.0, 1e-30, 1.0, 1e30):
        for top_p in (1.0, 0.5, 1e-60):
            token, log_probability = sample(logits, 1, Sampling(temperature=temperature, top_p=top_p))
            assert np.isfinite(log_probability) or token != 2
            if temperature <= 1:
                assert (token, log_probability) == (2, 0.0)
    most = np.finfo(np.float32).max
    wide = np.array([-most, most, -most, most, 0, -0.0, 1e-45, -1e-45], np.float32)
    assert top_tokens(wide, 8)[0].tolist() == [1, 3, 6, 4, 5, 7, 0, 2]
    for count in range(1, 8):
        assert top_tokens(wide, count)[0].tolist() == [1, 3, 6, 4, 5, 7, 0, 2][:count]
    assert {sample(wide, p, Sampling(temperature=1.0, top_k=5))[0] for p in range(50)} == {1, 3}


def test_a_rare_token_keeps_its_share() -> None:
    """A probability far below float32's resolution of the sum is not rounded away beside large ones."""
    logits = np.full(40, -40.0, np.float32)
    logits[0] = logits[17] = 0.0
    logits[1], logits[18] = -16.0, -17.0  # 1.1e-7 and 4e-8 of a total of 2
    powers = np.exp(logits.astype(np.float64))
    sums = np.cumsum(powers) / powers.sum()
    for token in (1, 18):
        inside = (sums[token - 1] + sums[token]) / 2
        assert sums[token] - sums[token - 1] < 1e-7
        assert token_at(logits, inside) == token


def test_borders_between_tokens() -> None:
    """A uniform number on a border draws the token after it; the greatest draws the last."""
    for size in (1, 2, 16, 32, 64):  # powers of two, so that every border is a float64
        drawn = [token_at(np.zeros(size, np.float32), n / size) for n in range(size)]
        assert drawn == list(range(size))
        assert token_at(np.zeros(size, np.float32), GREATEST_UNIFORM) == size - 1


def test_the_greatest_uniform_number_draws_the_last_token() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 200):
        assert token_at(rng.standard_normal(size).astype(np.float32), GREATEST_UNIFORM) == size - 1
    totals = np.concatenate([rng.uniform(1, 2**20, 100_000), np.exp2(np.arange(21))])
    for total in (totals, np.nextafter(totals, np.inf), np.nextafter(totals, 0)):
        assert (GREATEST_UNIFORM * total < total).all()


def token_at(logits: np.ndarray, u: float) -> int:
    """The token drawn at temperature 1 for a uniform number of one's own."""
    padded = np.zeros(-(-logits.size // 16) * 16, np.float32)
    padded[: logits.size] = logits
    return int(_pick(padded[: logits.size], powers.make_work(logits.size), u))


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


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(fault: float) -> None:
    logits = np.array([1.0, fault], np.float32)
    with pytest.raises(ValueError, match="logits: got NaN or infinity, expected finite numbers"):
        sample(logits, 1, Sampling())
    with pytest.raises(ValueError, match="logits: got NaN or infinity, expected finite numbers"):
        top_tokens(logits, 1)
