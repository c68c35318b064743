"""Tokens, lists and log-probabilities are those that `sample` and `top_tokens` give for the same logits."""

from __future__ import annotations

import numpy as np
import pytest
from keepgate_kernels import Lanes, ModelSpec, Network, Sampling, sample, top_tokens
from keepgate_kernels.cuda.layout import MOST_OF_A_WARP, row_threads
from support.cuda_runs import cuda_network
from support.random_models import random_inputs, random_tensors, token_spec
from support.states import fill

CLOSE = 1e-6
WIDE = MOST_OF_A_WARP + 1
"""The least vocabulary whose rows several warps work on."""
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=0.5, top_k=2, seed=2**64 - 1),
    Sampling(temperature=1.5, top_p=0.7, seed=3),
    Sampling(temperature=1.0, top_k=20, top_p=0.9, seed=4),
    Sampling(temperature=0.8, top_k=1, seed=5),
]


@pytest.mark.parametrize("vocabulary", [1, 2, 15, 16, 17, 78, 128, 129, WIDE])
def test_draws_are_those_of_the_logits(vocabulary: int) -> None:
    spec = token_spec(vocabulary=vocabulary, hidden=(5,))
    network, lanes = cuda_network(spec, random_tensors(spec), slots=len(SAMPLINGS)), Lanes(spec)
    inputs = random_inputs(spec, (len(SAMPLINGS), 1))
    position = 2**63 + 11
    for index, sampling in enumerate(SAMPLINGS):
        slot = network.slots.allocate()
        assert slot == index
        count = (vocabulary * index) // (len(SAMPLINGS) - 1)
        lanes.add(slot, inputs[index], position=position, sampling=sampling, logits=True, top_k=count)
    network.step(lanes)
    for index, sampling in enumerate(SAMPLINGS):
        logits = lanes.logits(index).copy()
        token, log_probability = sample(logits, position, sampling)
        assert lanes.token(index) == token
        assert lanes.log_probability(index) == pytest.approx(log_probability, abs=CLOSE)
        if count := (vocabulary * index) // (len(SAMPLINGS) - 1):
            tokens, log_probabilities = lanes.top(index)
            expected, expected_log_probabilities = top_tokens(logits, count)
            np.testing.assert_array_equal(tokens, expected)
            np.testing.assert_allclose(log_probabilities, expected_log_probabilities, atol=CLOSE)


def test_equal_logits_rank_by_their_ids() -> None:
    spec = token_spec(vocabulary=20, hidden=(3,))
    tensors = random_tensors(spec)
    tensors["head.weight"][:] = 0.0
    tensors["head.bias"][:] = np.array([0.0, -0.0, 1.0, 1.0] * 5, np.float32)
    network, lanes = cuda_network(spec, tensors, slots=6), Lanes(spec)
    one = np.zeros(1, np.uint32)
    for index in range(6):
        slot = network.slots.allocate()
        assert slot == index
        sampling = Sampling(temperature=1.0, top_k=3, seed=index)
        lanes.add(slot, one, position=1, sampling=sampling, top_k=13, logits=True)
    network.step(lanes)
    for index in range(6):
        assert lanes.token(index) in (2, 3, 6)
        assert (
            lanes.token(index)
            == sample(lanes.logits(index).copy(), 1, Sampling(temperature=1.0, top_k=3, seed=index))[0]
        )
        np.testing.assert_array_equal(lanes.top(index)[0], [2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 0, 1, 4])


def test_draws_follow_the_probabilities() -> None:
    """One state, many seeds: the share of each token is near its probability."""
    spec = token_spec(vocabulary=3, hidden=(2,))
    tensors = random_tensors(spec)
    tensors["head.weight"][:] = 0.0
    tensors["head.bias"][:] = np.log([0.5, 0.3, 0.2])
    network, lanes = cuda_network(spec, tensors, slots=64), Lanes(spec)
    for seed in range(64):
        slot = network.slots.allocate() or 0
        lanes.add(slot, np.zeros(1, np.uint32), position=1, sampling=Sampling(temperature=1.0, seed=seed))
    network.step(lanes)
    shares = np.bincount(lanes.tokens, minlength=3) / 64
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.2)
    expected = [
        sample(tensors["head.bias"], 1, Sampling(temperature=1.0, seed=seed))[0] for seed in range(64)
    ]
    assert lanes.tokens.tolist() == expected


TIED = [
    Sampling(temperature=1.0, top_k=1, seed=1),
    Sampling(temperature=1.0, top_k=40, seed=2),
    Sampling(temperature=0.7, top_p=0.05, seed=3),
    Sampling(temperature=1.3, top_p=0.5, seed=4),
    Sampling(temperature=1.0, top_k=50, top_p=0.9, seed=5),
    Sampling(),
]


def fixed(vocabulary: int, logits: np.ndarray, slots: int) -> tuple[ModelSpec, Network]:
    """A network that answers everything with these logits."""
    spec = token_spec(vocabulary=vocabulary, hidden=(2,))
    tensors = random_tensors(spec)
    tensors["head.weight"][:] = 0.0
    tensors["head.bias"][:] = logits
    return spec, cuda_network(spec, tensors, slots=slots)


@pytest.mark.parametrize("vocabulary", [78, WIDE])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_cuts_among_equal_logits(levels: int, vocabulary: int) -> None:
    """Far more tokens are equal than a cut may keep."""
    logits = np.random.default_rng(levels).integers(0, levels, vocabulary).astype(np.float32) / np.float32(3)
    spec, network = fixed(vocabulary, logits, 2 * len(TIED))
    lanes = Lanes(spec)
    for index in range(2 * len(TIED)):
        sampling = TIED[index // 2]
        count = (5, 60)[index % 2]
        lanes.add(
            network.slots.allocate() or 0,
            np.zeros(1, np.uint32),
            position=index,
            sampling=sampling,
            top_k=count,
        )
    network.step(lanes)
    for index in range(2 * len(TIED)):
        assert lanes.token(index) == sample(logits, index, TIED[index // 2])[0]
        np.testing.assert_array_equal(lanes.top(index)[0], top_tokens(logits, (5, 60)[index % 2])[0])


@pytest.mark.parametrize("vocabulary", [MOST_OF_A_WARP, WIDE])
def test_a_row_of_one_warp_or_more_has_the_same_bits_in_any_company(vocabulary: int) -> None:
    assert row_threads(vocabulary) == (256 if vocabulary == WIDE else 32)
    spec = token_spec(vocabulary=vocabulary, hidden=(5,))
    network = cuda_network(spec, random_tensors(spec), slots=len(SAMPLINGS))
    inputs = random_inputs(spec, (len(SAMPLINGS), 2))

    def answers(indices: list[int]) -> list[tuple[int, float, bytes, bytes]]:
        lanes, slots = Lanes(spec), [network.slots.allocate() or 0 for _ in indices]
        for slot, index in zip(slots, indices, strict=True):
            given, sampling = inputs[index], SAMPLINGS[index]
            lanes.add(slot, given, position=2, sampling=sampling, logits=True, top_k=7, score=True)
        network.step(lanes)
        for slot in slots:
            network.slots.release(slot)
        return [
            (
                lanes.token(lane),
                lanes.log_probability(lane),
                b"".join(part.tobytes() for part in (*lanes.top(lane), lanes.logits(lane))),
                lanes.scores(lane)[1:].tobytes(),
            )
            for lane in range(len(lanes))
        ]

    among = answers(list(range(len(SAMPLINGS))))
    assert [answers([index])[0] for index in range(len(SAMPLINGS))] == among
    for index, (token, log_probability, pooled, _) in enumerate(among):
        logits = np.frombuffer(pooled[-4 * vocabulary :], np.float32)
        expected = sample(logits, 2, SAMPLINGS[index])
        assert token == expected[0]
        assert log_probability == pytest.approx(expected[1], abs=CLOSE)


@pytest.mark.parametrize("weights", [(3e38, 3e38), (-3e38, -3e38), (3e38, -3e38)])
@pytest.mark.parametrize(("vocabulary", "place"), [(78, 77), (WIDE, 0), (WIDE, 300), (WIDE, WIDE - 1)])
def test_one_logit_that_is_not_finite_is_found(
    vocabulary: int, place: int, weights: tuple[float, float]
) -> None:
    """Infinity, its negative, and NaN; in the lanes whose state is large, whether they predict or score."""
    spec = token_spec("rnn_relu", vocabulary=vocabulary, hidden=(2,))
    tensors = random_tensors(spec)
    tensors["layers.0.weight_hh"][:] = 1.0
    tensors["head.weight"][place] = weights
    network, lanes = cuda_network(spec, tensors, slots=4), Lanes(spec)
    for slot in range(4):
        network.slots.allocate()
        fill(network.slots, slot, 100.0 if slot % 2 else 0.0)
        inputs, predicts = np.zeros(1, np.uint32), slot < 2
        lanes.add(*(slot, inputs), position=1, sampling=Sampling(1.0), predict=predicts, score=not predicts)
    network.step(lanes)
    assert [lanes.is_finite(lane) for lane in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("vocabulary", [78, WIDE])
def test_scores_of_a_row(vocabulary: int) -> None:
    logits = np.random.default_rng(3).normal(0, 3, vocabulary).astype(np.float32)
    spec, network = fixed(vocabulary, logits, 1)
    tokens = np.array([0, vocabulary - 1, vocabulary // 2, 1], np.uint32)
    lanes = Lanes(spec)
    lanes.add(network.slots.allocate() or 0, tokens, position=4, sampling=Sampling(), score=True)
    network.step(lanes)
    exact = logits.astype(np.float64) - logits.max()
    expected = exact - np.log(np.exp(exact).sum())
    np.testing.assert_allclose(lanes.scores(0)[1:], expected[tokens[1:]], rtol=1e-6, atol=CLOSE)
