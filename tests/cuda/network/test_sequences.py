"""Many steps in one launch a layer: the bits of as many ticks of one step, and the oracle's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, Lanes, ModelSpec, Network, Sampling, reference
from keepgate_kernels.cuda import layout, sequences
from keepgate_kernels.cuda.catalogue import sequence_entry
from keepgate_kernels.cuda.launch import Queue, multiprocessors
from keepgate_kernels.cuda.network import CudaNetwork
from support.cuda_runs import cuda_network
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec
from support.rounding import rounded

STEPS = 3


@pytest.fixture(autouse=True)
def short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps are a sequence, and are computed in more than one turn."""
    monkeypatch.setattr("keepgate_kernels.cuda.network.LEAST_SEQUENCE_STEPS", STEPS)
    monkeypatch.setattr("keepgate_kernels.cuda.network.SEQUENCE_ROWS", 7)
    assert layout.SEQUENCE_ROWS > 7
    assert sequences.LEAST_SEQUENCE_STEPS > STEPS


Bits = tuple[bytes, bytes, int]


def run(network: Network, inputs: list[Any], at_once: bool, calls: list[int]) -> list[Bits]:
    """State, answer and token of every lane, all of whose inputs are given in one tick or one by one."""
    lanes = Lanes(network.spec)
    tokens = lanes.takes_tokens
    slots = [network.slots.allocate() or 0 for _ in inputs]
    found: dict[int, tuple[bytes, int]] = {}
    longest = max(map(len, inputs))
    for begin in range(0, longest, longest if at_once else 1):
        lanes.clear()
        alive = [index for index, sequence in enumerate(inputs) if len(sequence) > begin]
        for index in alive:
            part = inputs[index][begin:] if at_once else inputs[index][begin : begin + 1]
            position, sampling = begin + len(part), Sampling(temperature=1.0, seed=index)
            lanes.add(slots[index], part, position=position, sampling=sampling, logits=tokens)
        network.step(lanes)
        for lane, index in enumerate(alive):
            answer = lanes.logits(lane) if tokens else lanes.outputs(lane)
            found[index] = answer.tobytes(), lanes.token(lane)
    calls.append(len(inputs))
    return [(network.slots.read(slot), *found[index]) for index, slot in enumerate(slots)]


CASES: list[tuple[ModelSpec, str]] = [
    *((feature_spec("gru", size=5, hidden=(12,)), precision) for precision in PRECISIONS),
    (token_spec("lstm", hidden=(11, 5), peepholes=True), "bf16"),
    (feature_spec("cifg", size=3, hidden=(9,)), "int8"),
    (token_spec("rnn_tanh", hidden=(33,)), "fp32"),
]


@pytest.mark.parametrize(
    ("spec", "precision"), CASES, ids=[f"{spec.layers[0].cell.kind.value}-{name}" for spec, name in CASES]
)
def test_sequences_have_the_bits_of_steps(
    spec: ModelSpec, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = random_tensors(spec)
    inputs = [random_inputs(spec, (steps,), steps) for steps in (STEPS + 1, 1, STEPS)]
    calls: list[int] = []
    launched = CudaNetwork._run_sequence

    def watched(self: CudaNetwork, *args: Any) -> None:
        calls.append(-1)
        launched(self, *args)

    monkeypatch.setattr(CudaNetwork, "_run_sequence", watched)
    single = cuda_network(spec, tensors, slots=3, precision=precision)
    expected = run(single, inputs, False, calls)
    assert calls == [3]
    whole = cuda_network(spec, tensors, slots=3, precision=precision)
    assert run(whole, inputs, True, calls) == expected
    assert calls == [3, -1, 3]
    seen = rounded(spec, tensors, precision)
    for slot, sequence in enumerate(inputs):
        _, state = reference.run(spec, seen, sequence)
        tolerance = {"fp32": 1e-5, "bf16": 1e-2, "int8": 5e-2}[precision]
        for found, (h, _) in zip(whole.hidden(slot), state, strict=True):
            np.testing.assert_allclose(found, h, atol=tolerance)


def test_an_overflow_stays_in_its_lane() -> None:
    """Rows of a narrow layer end in zeros, not in what a wide one left of another lane."""
    spec = feature_spec("rnn_relu", size=3, hidden=(65, 9, 5))
    sequence, other = (random_inputs(spec, (STEPS,), seed) for seed in range(2))
    other[0] = 3e38
    network = cuda_network(spec, random_tensors(spec), slots=2, precision="fp32")
    found = []
    for inputs in ([sequence], [sequence, other]):
        lanes = Lanes(spec)
        slots = [network.slots.allocate() or 0 for _ in inputs]
        for slot, given in zip(slots, inputs, strict=True):
            lanes.add(slot, given, position=STEPS, sampling=Sampling())
        network.step(lanes)
        assert lanes.all_finite == (len(inputs) == 1)
        found.append((network.slots.read(slots[0]), lanes.outputs(0).tobytes()))
        for slot in slots:
            network.slots.release(slot)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "spec",
    [feature_spec("lstm", projection=3), feature_spec("gru_reset_before")],
    ids=["projection", "reset"],
)
def test_layers_of_two_products_go_step_by_step(spec: ModelSpec) -> None:
    network = cuda_network(spec, random_tensors(spec), slots=1)
    assert isinstance(network.backend, CudaNetwork)
    assert network.backend._sequence is None


def test_what_does_not_fit_goes_step_by_step() -> None:
    """The weights of a thread block's units are more than its shared memory holds."""
    spec = feature_spec("rnn_tanh", hidden=(2304,))
    network = cuda_network(spec, random_tensors(spec), slots=1, precision="fp32")
    assert isinstance(network.backend, CudaNetwork)
    assert network.backend._sequence is None


def test_more_thread_blocks_than_the_device_holds_at_once() -> None:
    """They would wait for each other for ever."""
    queue, entry = Queue(), sequence_entry("bf16", 4, 4)
    assert queue.holds(entry, multiprocessors())
    assert not queue.holds(entry, 40 * multiprocessors())


def test_layers_of_two_sizes_share_a_kernel() -> None:
    """What the smaller one needs, loaded last, is no limit for the larger."""
    queue, large, small = Queue(), sequence_entry("bf16", 4, 32), sequence_entry("bf16", 4, 16)
    assert large.shared_bytes > small.shared_bytes > 48 << 10
    for entry in (large, small, large):
        assert queue.holds(entry, 1)
