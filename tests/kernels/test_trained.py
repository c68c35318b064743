"""The bundled models: float32 after 1,000 steps of real text, and the same bits in every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keepgate.models.format import load_model
from keepgate_kernels import Lanes, ModelSpec, Network, Sampling, TokenInput, reference

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "service" / "keepgate" / "bundled_models").glob("*/*/model.safetensors"))
STEPS = 1000
RELATIVE_ERROR = 1e-5
"""Of the hidden state, in the Euclidean norm and in the largest unit."""


def sequences(spec: ModelSpec, count: int, steps: int) -> np.ndarray:
    """Different parts of the held-out text [count, steps], or plausible features [count, steps, K]."""
    if not isinstance(spec.input, TokenInput):
        return np.random.default_rng(5).standard_normal((count, steps, spec.input.size)).astype(np.float32)
    assert spec.tokenizer is not None
    index = {character: token for token, character in enumerate(spec.tokenizer.vocabulary)}
    text = (ROOT / "training" / "corpus" / "held_out.txt").read_text()
    tokens = np.array([index[character] for character in text], np.uint32)
    starts = np.linspace(0, len(tokens) - steps, count).astype(int)
    return np.stack([tokens[start : start + steps] for start in starts])


def run(network: Network, inputs: np.ndarray, batch: int) -> list[bytes]:
    """Final state of every sequence, computed `batch` at a time."""
    states = []
    for first in range(0, len(inputs), batch):
        lanes = Lanes(network.spec, max_inputs=inputs[:batch, :, ...].shape[0] * inputs.shape[1])
        slots = []
        for sequence in inputs[first : first + batch]:
            slot = network.slots.allocate()
            assert slot is not None
            slots.append(slot)
            lanes.add(slot, sequence, position=len(sequence), sampling=Sampling(), predict=False)
        network.step(lanes)
        for slot in slots:
            states.append(network.slots.read(slot))
            network.slots.release(slot)
    return states


def test_there_are_five_models() -> None:
    names = {path.parts[-3] for path in MODELS}
    assert names == {f"shakespeare-{cell}" for cell in ("rnn", "lstm", "cifg", "gru")} | {"el-nino"}
    assert all(path.stat().st_size <= 4_000_000 for path in MODELS)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parts[-3])
def test_error_after_1000_steps(path: Path) -> None:
    model = load_model(path)
    (inputs,) = sequences(model.spec, 1, STEPS)
    network = Network(model.spec, model.tensors, slots=1)
    lanes = Lanes(model.spec)
    slot = network.slots.allocate()
    assert slot is not None
    lanes.add(slot, inputs, position=STEPS, sampling=Sampling())
    network.step(lanes)
    _, state = reference.run(model.spec, model.tensors, inputs)
    for hidden, (h, _) in zip(network.hidden(slot), state, strict=True):
        assert np.linalg.norm(hidden - h) / np.linalg.norm(h) <= RELATIVE_ERROR
        assert np.abs(hidden - h).max() / np.abs(h).max() <= RELATIVE_ERROR


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parts[-3])
def test_batches_of_1_7_64_and_1000(path: Path) -> None:
    model = load_model(path)
    network = Network(model.spec, model.tensors, slots=1000)
    inputs = sequences(model.spec, 1000, 4)
    alone = run(network, inputs, 1)
    for batch in (7, 64, 1000):
        assert run(network, inputs, batch) == alone
