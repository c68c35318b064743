"""A session's bits do not depend on the batch: its size, the lane, the company, the split of the inputs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels import CellKind, Lanes, ModelSpec, Network, Sampling
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec

SAMPLING = Sampling(temperature=0.9, top_k=7, top_p=0.95, seed=2**63 + 5)


Bits = tuple[bytes, bytes, int, float]
"""State, pooled answers, token and log-probability of a sequence."""


def answers(network: Network, sequences: np.ndarray, batch: int, steps: int) -> list[Bits]:
    """Run every sequence from zero, `batch` lanes and `steps` inputs at a time; the final bits of each."""
    results = []
    for first in range(0, len(sequences), batch):
        group = sequences[first : first + batch]
        slots = [network.slots.allocate() for _ in group]
        lanes = Lanes(network.spec)
        takes_tokens = lanes.takes_tokens
        scores = [b""] * len(group)
        for begin in range(0, group.shape[1], steps):
            lanes.clear()
            for slot, sequence in zip(slots, group, strict=True):
                assert slot is not None
                part = sequence[begin : begin + steps]
                lanes.add(
                    slot,
                    part,
                    position=begin + len(part),
                    sampling=SAMPLING,
                    score=takes_tokens,
                    top_k=min(5, network.spec.head.size) if takes_tokens else 0,
                    logits=takes_tokens,
                )
            network.step(lanes)
            if takes_tokens:
                scores = [known + lanes.scores(lane).tobytes() for lane, known in enumerate(scores)]
        for lane, slot in enumerate(slots):
            assert slot is not None
            state = b"".join(h.tobytes() for h in network.hidden(slot))
            state += network.slots.state.c[:, slot].tobytes()
            token, log_probability = lanes.token(lane), lanes.log_probability(lane)
            if takes_tokens:
                tokens, log_probabilities = lanes.top(lane)
                pooled = lanes.logits(lane).tobytes() + tokens.tobytes() + log_probabilities.tobytes()
            else:
                pooled = lanes.outputs(lane).tobytes()
            results.append((state, pooled + scores[lane], token, log_probability))
            network.slots.release(slot)
    return results


@pytest.mark.parametrize("kind", CellKind)
@pytest.mark.parametrize("hidden", [1, 17, 100, 384])
def test_batches_of_1_7_64_and_1000(kind: CellKind, hidden: int) -> None:
    spec = token_spec(kind, vocabulary=23, hidden=(hidden,))
    network = Network(spec, random_tensors(spec), slots=1000)
    sequences = random_inputs(spec, (1000 if hidden < 384 else 200, 3))
    alone = answers(network, sequences, 1, 1)
    for batch in (7, 64, 1000):
        assert answers(network, sequences, batch, 1) == alone


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(CellKind),
    hidden=st.lists(st.integers(1, 70), min_size=1, max_size=2),
    tokens=st.booleans(),
    lanes=st.integers(1, 70),
    batch=st.integers(1, 70),
    steps=st.integers(1, 5),
)
def test_any_batch_and_any_split(
    kind: CellKind, hidden: list[int], tokens: bool, lanes: int, batch: int, steps: int
) -> None:
    make = token_spec if tokens else feature_spec
    spec: ModelSpec = make(kind, hidden=tuple(hidden))
    network = Network(spec, random_tensors(spec), slots=lanes)
    sequences = random_inputs(spec, (lanes, 5))
    assert answers(network, sequences, batch, steps) == answers(network, sequences, 1, 5)


def test_threads_step_disjoint_slots_at_the_same_time() -> None:
    spec = token_spec(CellKind.LSTM, hidden=(64,))
    network = Network(spec, random_tensors(spec), slots=64)
    sequences = random_inputs(spec, (4, 8, 50))
    expected = [answers(network, group, 8, 1) for group in sequences]
    found: dict[int, list[Bits]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: answers(network, sequences[i], 8, 1)}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(4)] == expected
