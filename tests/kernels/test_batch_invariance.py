"""A session's bits do not depend on the batch: its size, the lane, the company, the split of the inputs."""

from __future__ import annotations

import threading

import keepgate_kernels.cpu.network as network_module
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keepgate_kernels import PRECISIONS, CellKind, ModelSpec, Network
from support.bits import Bits, answers
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
@pytest.mark.parametrize("hidden", [1, 17, 100, 384])
def test_batches_of_1_7_64_and_1000(kind: CellKind, hidden: int, precision: str) -> None:
    spec = token_spec(kind, vocabulary=23, hidden=(hidden,))
    network = Network(spec, random_tensors(spec), slots=1000, precision=precision)
    sequences = random_inputs(spec, (1000 if hidden < 384 else 200, 3))
    alone = answers(network, sequences, 1, 1)
    for batch in (7, 64, 1000):
        assert answers(network, sequences, batch, 1) == alone


@pytest.fixture
def sharing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers take part in every step, however light."""
    monkeypatch.setattr(network_module, "LEAST_SHARED_SECONDS", 0.0)


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(CellKind),
    precision=st.sampled_from(PRECISIONS),
    hidden=st.lists(st.integers(1, 70), min_size=1, max_size=2),
    tokens=st.booleans(),
    lanes=st.integers(1, 70),
    batch=st.integers(1, 70),
    steps=st.integers(1, 5),
    threads=st.integers(1, 3),
)
def test_any_batch_any_split_and_any_number_of_threads(
    sharing_at_once: None,
    kind: CellKind,
    precision: str,
    hidden: list[int],
    tokens: bool,
    lanes: int,
    batch: int,
    steps: int,
    threads: int,
) -> None:
    make = token_spec if tokens else feature_spec
    spec: ModelSpec = make(kind, hidden=tuple(hidden))
    tensors = random_tensors(spec)
    network = Network(spec, tensors, slots=lanes, precision=precision, threads=threads)
    network.compile()  # or the helpers would be busy with that
    alone = Network(spec, tensors, slots=lanes, precision=precision)
    sequences = random_inputs(spec, (lanes, 5))
    assert answers(network, sequences, batch, steps) == answers(alone, sequences, 1, 5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
def test_a_thousand_units_at_one_thread_and_two(
    kind: CellKind, precision: str, sharing_at_once: None
) -> None:
    spec = feature_spec(kind, size=100, hidden=(1000,))
    tensors, sequences = random_tensors(spec), random_inputs(spec, (9, 2))
    alone = answers(Network(spec, tensors, slots=9, precision=precision), sequences, 1, 1)
    helped = Network(spec, tensors, slots=9, precision=precision, threads=2)
    helped.compile()
    for batch, steps in ((1, 1), (1, 2), (9, 1), (7, 2)):
        assert answers(helped, sequences, batch, steps) == alone


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
