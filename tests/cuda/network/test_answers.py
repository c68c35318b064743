"""Tokens, lists and log-probabilities are those that `sample` and `top_tokens` give for the same logits."""

from __future__ import annotations

import numpy as np
import pytest
from keepgate_kernels import Lanes, Sampling, sample, top_tokens
from support.cuda_runs import cuda_network
from support.random_models import random_inputs, random_tensors, token_spec

CLOSE = 1e-6
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0, seed=1),
    Sampling(temperature=0.5, top_k=2, seed=2**64 - 1),
    Sampling(temperature=1.5, top_p=0.7, seed=3),
    Sampling(temperature=1.0, top_k=20, top_p=0.9, seed=4),
    Sampling(temperature=0.8, top_k=1, seed=5),
]


@pytest.mark.parametrize("vocabulary", [1, 2, 15, 16, 17, 78])
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
