"""What a batch is asked for, and its answers: the same as from the logits, and nothing that was not asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels import CellKind, Lanes, ModelSpec, Network, Sampling, sample, top_tokens
from keepgate_kernels.lane import ANSWERED, one_input_each
from keepgate_kernels.lanes import KEPT_POOL
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec
from support.states import fill


def network_of(spec: ModelSpec, slots: int = 1, **tensors: Any) -> Network:
    """A random network whose slots are all taken."""
    network = Network(spec, random_tensors(spec) | tensors, slots=slots)
    for _ in range(slots):
        assert network.slots.allocate() is not None
    return network


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 2, 20]),
    top_p=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.one_of(st.sampled_from([1, 15, 16, 17, 78]), st.integers(1, 200)),
    options=st.lists(st.tuples(samplings, st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    position=st.integers(1, 2**63),
)
def test_answers_are_those_of_the_logits(
    vocabulary: int, options: list[tuple[Sampling, float, bool]], position: int
) -> None:
    """Lanes with different wishes side by side: each answer has the bits that `sample` gives."""
    spec = token_spec(vocabulary=vocabulary)
    network, lanes = network_of(spec, len(options)), Lanes(spec)
    inputs = random_inputs(spec, (len(options), 2))
    for slot, (sampling, share, wants_logits) in enumerate(options):
        top_k = round(share * vocabulary)
        lanes.add(slot, inputs[slot], position=position, sampling=sampling, top_k=top_k, logits=wants_logits)
    network.step(lanes)
    everything = Lanes(spec)
    for slot in range(len(options)):
        fill(network.slots, slot, 0)
        everything.add(slot, inputs[slot], position=position, sampling=Sampling(), logits=True)
    network.step(everything)
    for lane, (sampling, share, wants_logits) in enumerate(options):
        logits = everything.logits(lane)
        assert (lanes.token(lane), lanes.log_probability(lane)) == sample(logits, position, sampling)
        if wants_logits:
            np.testing.assert_array_equal(lanes.logits(lane), logits)
        if count := round(share * vocabulary):
            for found, expected in zip(lanes.top(lane), top_tokens(logits, count), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_scores_are_the_log_probabilities_of_the_tokens() -> None:
    spec = token_spec(CellKind.GRU)
    network, lanes = network_of(spec, 2), Lanes(spec)
    tokens = random_inputs(spec, (9,))
    lanes.add(0, tokens, position=9, sampling=Sampling(), predict=False, score=True)
    network.step(lanes)
    scores = lanes.scores(0).copy()
    for position in range(8):
        lanes.clear()
        last = tokens[position : position + 1]
        lanes.add(1, last, position=position + 1, sampling=Sampling(), top_k=spec.head.size)
        network.step(lanes)
        listed = dict(zip(*lanes.top(0), strict=True))
        assert scores[position + 1] == listed[tokens[position + 1]]


def test_what_was_not_asked_for_is_an_error() -> None:
    lanes = Lanes(token_spec())
    lanes.add(0, np.zeros(1, np.uint32), position=1, sampling=Sampling())
    for read in (lanes.logits, lanes.outputs, lanes.top, lanes.scores):
        with pytest.raises(ValueError, match=rf"{read.__name__}: lane 0 was added without"):
            read(0)
    lanes = Lanes(feature_spec())
    lanes.add(0, np.zeros((1, 3), np.float32), position=1, sampling=Sampling(), predict=False)
    with pytest.raises(ValueError, match="outputs: lane 0 was added without"):
        lanes.outputs(0)


def test_lanes_refuse_what_does_not_fit() -> None:
    spec = token_spec()
    lanes = Lanes(spec, max_lanes=2, max_inputs=5)
    lanes.add(0, np.zeros(3, np.uint32), position=3, sampling=Sampling())
    assert lanes.room == 2
    with pytest.raises(ValueError, match="got 3, expected 1 to 2"):
        lanes.add(1, np.zeros(3, np.uint32), position=3, sampling=Sampling())
    with pytest.raises(ValueError, match="got 0, expected 1 to 2"):
        lanes.add(1, np.zeros(0, np.uint32), position=0, sampling=Sampling())
    one: dict[str, Any] = {"position": 1, "sampling": Sampling()}
    for top_k in (-1, 12):
        with pytest.raises(ValueError, match=rf"top_k: got {top_k}, expected 0 to the vocabulary size, 11"):
            lanes.add(1, np.zeros(1, np.uint32), top_k=top_k, **one)
    for wish in ({"top_k": 1}, {"logits": True}):
        with pytest.raises(ValueError, match="a lane that predicts"):
            lanes.add(1, np.zeros(1, np.uint32), predict=False, **wish, **one)
        with pytest.raises(ValueError, match="expected a token model"):
            Lanes(feature_spec()).add(0, np.zeros((1, 3), np.float32), **wish, **one)
    lanes.add(1, np.zeros(1, np.uint32), **one)
    assert lanes.room == 0
    lanes.clear()
    assert (len(lanes), lanes.inputs, lanes.room) == (0, 0, 5)
    with pytest.raises(ValueError, match="score: the model takes features, expected a token model"):
        Lanes(feature_spec()).add(0, np.zeros((1, 3), np.float32), score=True, **one)


def test_the_pool_grows_and_is_given_back() -> None:
    spec = token_spec(vocabulary=70_000)
    network, lanes = network_of(spec, 20), Lanes(spec)
    before = None
    for lane_count in (1, 20, 20, 3, 3):
        lanes.clear()
        for slot in range(lane_count):
            lanes.add(slot, np.zeros(1, np.uint32), position=1, sampling=Sampling(), logits=True)
        if lane_count == 20 and before is not None and before.size > KEPT_POOL:
            assert lanes.batch.pool is before  # in use: kept
        before = lanes.batch.pool
        assert before.size >= lane_count * 70_000
        network.step(lanes)
        distinct = {lanes.logits(lane).tobytes() for lane in range(lane_count)}
        assert len(distinct) <= 3  # slots that took 1, 2, 3 or 5 steps with the same input
    lanes.clear()
    assert lanes.batch.pool.size <= KEPT_POOL


@pytest.mark.parametrize("fault", [np.float32(3e38), np.float32(-3e38)])
@pytest.mark.parametrize("row", [0, 3, 10])
def test_numbers_that_are_not_finite_are_found(fault: np.float32, row: int) -> None:
    """One output is beyond float32 in slot 1, whose state is large, and not in slot 0."""
    for spec in (token_spec("rnn_relu"), feature_spec("rnn_relu", outputs=11)):
        weight = np.zeros((11, 8), np.float32)
        weight[row, :2] = fault
        network, lanes = network_of(spec, 3, **{"head.weight": weight}), Lanes(spec)
        fill(network.slots, 1, 100)
        for slot, predict in ((0, False), (1, True), (1, False)):
            lanes.clear()
            lanes.add(slot, random_inputs(spec, (1,)), position=1, sampling=Sampling(), predict=predict)
            network.step(lanes)
            assert lanes.is_finite(0) is not predict
            assert lanes.all_finite is not predict


def test_one_lane_that_is_not_finite_leaves_the_others() -> None:
    spec = token_spec("rnn_relu")
    tensors = {"head.weight": np.full((11, 8), 1e38, np.float32)}
    network, lanes = network_of(spec, 5, **tensors), Lanes(spec)
    fill(network.slots, 2, 1e6)
    fill(network.slots, 3, 1e6)
    for slot in range(5):
        tokens = np.zeros(3, np.uint32)
        scores = slot in (3, 4)
        lanes.add(slot, tokens, position=3, sampling=Sampling(), predict=not scores, score=scores)
    network.step(lanes)
    assert [lanes.is_finite(lane) for lane in range(5)] == [True, True, False, False, True]
    assert not lanes.all_finite
    lanes.clear()
    assert lanes.all_finite


@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_filled_lanes_are_added_ones(kind: str) -> None:
    """Also when more lanes, of other kinds, were there before."""
    tokens = kind == "tokens"
    spec = token_spec("lstm", vocabulary=9) if tokens else feature_spec("gru", size=3, outputs=2)
    network = Network(spec, random_tensors(spec), slots=24)
    slots = np.array([network.slots.allocate() for _ in range(24)], np.int64)
    rng = np.random.default_rng(1)
    lanes = Lanes(spec, max_lanes=12)
    samplings = [Sampling(temperature=0.9, top_k=4, seed=index) for index in range(12)]
    options = np.array([sampling.as_record() for sampling in samplings], ANSWERED)
    records = one_input_each(spec, slots[:12], options)
    for turn in range(3):
        values: Any = rng.integers(0, 9, 12, np.uint32) if tokens else rng.normal(size=(12, 3))
        values = values if tokens else values.astype(np.float32)
        positions = np.arange(12, dtype=np.uint64) + np.uint64(turn + 1)
        lanes.clear()
        for index in range(12):
            lanes.add(
                int(slots[12 + index]),
                values[index : index + 1],
                position=int(positions[index]),
                sampling=samplings[index],
                top_k=2 if tokens else 0,
            )
        network.step(lanes)
        outputs = [] if tokens else [lanes.outputs(index).tolist() for index in range(12)]
        expected = lanes.tokens.tolist(), lanes.log_probabilities.tolist(), outputs
        lanes.clear()
        lanes.fill(records, values, positions)
        network.step(lanes)
        assert lanes.finite.all()
        outputs = [] if tokens else lanes.filled_outputs.tolist()
        assert (lanes.tokens.tolist(), lanes.log_probabilities.tolist(), outputs) == expected
    states = network.slots.read_many(slots)
    assert states[:12] == states[12:]
    assert states == [network.slots.read(int(slot)) for slot in slots]
    for count in (0, 13):
        lanes.clear()
        with pytest.raises(ValueError, match=f"records: got {count}, expected 1 to 12"):
            lanes.fill(np.resize(records, count), np.zeros(count, np.uint32), np.zeros(count, np.uint64))
