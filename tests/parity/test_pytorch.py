"""The served models in PyTorch itself: same weights, same text, same numbers. Needs torch; `make parity`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from keepgate.models.format import load_model
from keepgate_kernels import CellKind, Lanes, ModelSpec, Network, Sampling, TokenInput

ROOT = Path(__file__).parents[2]
BUNDLED = sorted((ROOT / "service" / "keepgate" / "bundled_models").glob("*/*/model.safetensors"))
MODELS = [path for path in BUNDLED if path.parts[-3] != "shakespeare-cifg"]
"""PyTorch has no coupled-gate LSTM; tests/golden covers its equations."""

STEPS = 1000
MODULES = {
    CellKind.RNN_TANH: torch.nn.RNN,
    CellKind.LSTM: torch.nn.LSTM,
    CellKind.GRU: torch.nn.GRU,
}


def torch_hidden(spec: ModelSpec, tensors: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Final hidden state [P] of a one-layer network in PyTorch, float64, after inputs [T] or [T, K]."""
    (layer,) = spec.layers
    module = MODULES[layer.cell.kind](spec.input_size, layer.hidden_size, dtype=torch.float64)
    own = {
        f"{kind}_l0": torch.from_numpy(tensors[f"layers.0.{kind}"].astype(np.float64))
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    module.load_state_dict(own)
    x = tensors["embedding.weight"][inputs] if isinstance(spec.input, TokenInput) else inputs
    with torch.no_grad():
        outputs, _ = module(torch.from_numpy(x.astype(np.float64)))
    return np.asarray(outputs[-1].numpy())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parts[-3])
def test_hidden_state_after_1000_steps(path: Path) -> None:
    model = load_model(path)
    rng = np.random.default_rng(3)
    if isinstance(model.spec.input, TokenInput):
        inputs = rng.integers(0, model.spec.input.vocabulary_size, STEPS).astype(np.uint32)
    else:
        inputs = rng.standard_normal((STEPS, model.spec.input.size)).astype(np.float32)
    network = Network(model.spec, model.tensors, slots=1)
    slot = network.slots.allocate()
    assert slot is not None
    lanes = Lanes(model.spec)
    lanes.add(slot, inputs, position=STEPS, sampling=Sampling())
    network.step(lanes)
    expected = torch_hidden(model.spec, dict(model.tensors), inputs)
    error = np.abs(network.hidden(slot)[0] - expected).max() / np.abs(expected).max()
    assert error <= 1e-5


def test_goldens_are_what_pytorch_computes(tmp_path: Path) -> None:
    script = tmp_path / "make_pytorch.py"
    script.write_text((ROOT / "tests" / "golden" / "make_pytorch.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    with np.load(tmp_path / "pytorch.npz") as made, np.load(ROOT / "tests/golden/pytorch.npz") as kept:
        assert made.files == kept.files
        for name in made.files:
            np.testing.assert_allclose(made[name], kept[name], atol=1e-13, rtol=0, err_msg=name)
