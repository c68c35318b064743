"""The float32 kernel against the float64 oracle: every cell, option, size and way of giving inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels import CellKind, Lanes, ModelSpec, Network, Sampling, TokenInput, reference
from keepgate_kernels.cpu import packing, plan
from support.random_models import Tensors, feature_spec, random_inputs, random_tensors, token_spec

TOLERANCE = 5e-6
"""Absolute, on values of order 1: some tens of float32 roundings, contracted by the recurrence."""

WITH_CELL_STATE = (CellKind.LSTM, CellKind.CIFG)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Any cell with any options, token or feature input, one to three layers of odd sizes."""
    kind = draw(st.sampled_from(CellKind))
    options: dict[str, Any] = {}
    if kind in WITH_CELL_STATE:
        options = {
            "peepholes": draw(st.booleans()),
            "projection": draw(st.sampled_from([0, 1, 5, 16, 19])),
            "cell_clip": draw(st.sampled_from([0.0, 0.25])),
        }
    hidden = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    if draw(st.booleans()):
        return token_spec(kind, vocabulary=draw(st.integers(1, 40)), hidden=hidden, **options)
    return feature_spec(
        kind, size=draw(st.integers(1, 20)), outputs=draw(st.integers(1, 20)), hidden=hidden, **options
    )


def check(spec: ModelSpec, tensors: Tensors, inputs: np.ndarray) -> None:
    """Run inputs [B, T, ...] as one batch and compare every answer with the oracle's."""
    network = Network(spec, tensors, slots=len(inputs))
    lanes = Lanes(spec)
    slots = [network.slots.allocate() or 0 for _ in inputs]
    takes_tokens = isinstance(spec.input, TokenInput)
    for slot, sequence in zip(slots, inputs, strict=True):
        lanes.add(
            slot,
            sequence,
            position=len(sequence),
            sampling=Sampling(),
            score=takes_tokens,
            logits=takes_tokens,
        )
    network.step(lanes)
    assert lanes.all_finite
    for lane, (slot, sequence) in enumerate(zip(slots, inputs, strict=True)):
        values, state = reference.run(spec, tensors, sequence)
        found = lanes.logits(lane) if takes_tokens else lanes.outputs(lane)
        np.testing.assert_allclose(found, values[-1], atol=TOLERANCE, rtol=TOLERANCE)
        for hidden, (h, _) in zip(network.hidden(slot), state, strict=True):
            np.testing.assert_allclose(hidden, h, atol=TOLERANCE, rtol=TOLERANCE)
        if takes_tokens:
            log_probabilities = reference.log_softmax(values[-1])
            token = lanes.token(lane)
            assert log_probabilities[token] >= log_probabilities.max() - TOLERANCE
            assert lanes.log_probability(lane) == pytest.approx(log_probabilities[token], abs=2e-5)
            expected = reference.score(spec, tensors, sequence)
            np.testing.assert_allclose(lanes.scores(lane)[1:], expected, atol=2e-5)


@settings(max_examples=150, deadline=None)
@given(spec=specs(), lanes=st.integers(1, 5), steps=st.integers(1, 6), seed=st.integers(0, 999))
def test_every_cell(spec: ModelSpec, lanes: int, steps: int, seed: int) -> None:
    check(spec, random_tensors(spec, seed), random_inputs(spec, (lanes, steps), seed))


@pytest.mark.parametrize("kind", CellKind)
@pytest.mark.parametrize("hidden", [1, 15, 16, 17, 127, 129, 515])
def test_sizes_around_vectors_and_blocks(kind: CellKind, hidden: int) -> None:
    spec = token_spec(kind, hidden=(hidden,))
    check(spec, random_tensors(spec), random_inputs(spec, (2, 3)))


@pytest.mark.parametrize("kind", CellKind)
def test_embedding_too_large_to_fold(kind: CellKind, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = token_spec(kind, hidden=(9, 5))
    tensors, inputs = random_tensors(spec), random_inputs(spec, (3, 4))
    assert packing.pack(spec, tensors, "fp32").ends["input_kind"] == plan.FOLDED
    monkeypatch.setattr(packing, "MAX_TABLE_BYTES", 0)
    assert packing.pack(spec, tensors, "fp32").ends["input_kind"] == plan.EMBEDDED
    check(spec, tensors, inputs)


def test_lanes_of_different_lengths() -> None:
    spec = token_spec(CellKind.GRU, hidden=(12, 7))
    tensors = random_tensors(spec)
    network = Network(spec, tensors, slots=40)
    lanes = Lanes(spec)
    sequences = [random_inputs(spec, (1 + index % 7,), index) for index in range(40)]
    for sequence in sequences:
        slot = network.slots.allocate()
        assert slot is not None
        lanes.add(slot, sequence, position=len(sequence), sampling=Sampling(), logits=True)
    network.step(lanes)
    for lane, sequence in enumerate(sequences):
        values, _ = reference.run(spec, tensors, sequence)
        np.testing.assert_allclose(lanes.logits(lane), values[-1], atol=TOLERANCE)
