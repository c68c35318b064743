"""The oracle against PyTorch's numbers (goldens) and ONNX's reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.reference
import pytest
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    FeatureInput,
    LayerSpec,
    LinearHead,
    ModelSpec,
    TokenInput,
    reference,
)
from keepgate_kernels.spec import GATES

GOLDENS = Path(__file__).parents[1] / "golden" / "pytorch.npz"
TOLERANCE = 1e-12
"""Both sides compute in float64; only the order of additions differs."""

K, H, P, T = 5, 7, 3, 11


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS) as archive:
        return dict(archive)


@pytest.mark.parametrize(
    ("name", "kind", "projection"),
    [
        ("rnn_tanh", "rnn_tanh", 0),
        ("rnn_relu", "rnn_relu", 0),
        ("lstm", "lstm", 0),
        ("lstm_projection", "lstm", P),
        ("cifg", "cifg", 0),
        ("gru", "gru", 0),
    ],
)
def test_pytorch(goldens: dict[str, np.ndarray], name: str, kind: str, projection: int) -> None:
    own = {
        key.removeprefix(f"{name}/"): value for key, value in goldens.items() if key.startswith(f"{name}/")
    }
    layers = sum(key.endswith("weight_ih") for key in own)
    cell = CellSpec(CellKind(kind), projection=projection)
    spec = ModelSpec(FeatureInput(K), (LayerSpec(cell, H),) * layers, LinearHead(projection or H))
    own["head.weight"], own["head.bias"] = np.eye(projection or H), np.zeros(projection or H)

    outputs, state = reference.run(spec, own, own["x"])

    np.testing.assert_allclose(outputs, own["h"], atol=TOLERANCE, rtol=0)
    for layer, (h, c) in enumerate(state):
        np.testing.assert_allclose(h, own["final_h"][layer], atol=TOLERANCE, rtol=0)
        if c.size:
            np.testing.assert_allclose(c, own["final_c"][layer], atol=TOLERANCE, rtol=0)


ONNX_ORDER = {
    CellKind.RNN_TANH: "h",
    CellKind.LSTM: "iofg",
    CellKind.GRU: "zrn",
    CellKind.GRU_RESET_BEFORE: "zrn",
}
"""ONNX's order of gate blocks, in our names."""


@pytest.mark.parametrize(
    ("kind", "peepholes"),
    [
        (CellKind.RNN_TANH, False),
        (CellKind.LSTM, False),
        (CellKind.LSTM, True),
        (CellKind.GRU, False),
        (CellKind.GRU_RESET_BEFORE, False),
    ],
)
def test_onnx(kind: CellKind, peepholes: bool) -> None:
    rng = np.random.default_rng(7)
    layer = LayerSpec(CellSpec(kind, peepholes=peepholes), H)
    spec = ModelSpec(FeatureInput(K), (layer,), LinearHead(H))
    tensors = {name: rng.standard_normal(shape) * 0.5 for name, shape in spec.tensors().items()}
    tensors["head.weight"], tensors["head.bias"] = np.eye(H), np.zeros(H)
    x = rng.standard_normal((T, K))

    outputs, _ = reference.run(spec, tensors, x)

    np.testing.assert_allclose(outputs, run_onnx(kind, tensors, x), atol=TOLERANCE, rtol=0)


def run_onnx(kind: CellKind, tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """h [T, H] of the ONNX operator for the cell, with the canonical weights put into ONNX's order."""

    def reorder(rows: np.ndarray) -> np.ndarray:
        blocks = dict(zip(GATES[kind], rows.reshape(-1, H, *rows.shape[1:]), strict=True))
        return np.concatenate([blocks[gate] for gate in ONNX_ORDER[kind]])

    own = {name.removeprefix("layers.0."): value for name, value in tensors.items()}
    bias = np.concatenate([reorder(own["bias_ih"]), reorder(own["bias_hh"])])
    feeds = {
        "X": x[:, None, :],
        "W": reorder(own["weight_ih"])[None],
        "R": reorder(own["weight_hh"])[None],
        "B": bias[None],
    }
    inputs = ["X", "W", "R", "B"]
    if "weight_peephole" in own:
        i, f, o = own["weight_peephole"]
        feeds["initial"] = np.zeros((1, 1, H))
        feeds["P"] = np.concatenate([i, o, f])[None]
        inputs += ["", "initial", "initial", "P"]
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind is CellKind.GRU else {}
    operator = {"rnn_tanh": "RNN", "lstm": "LSTM"}.get(kind.value, "GRU")
    node = onnx.helper.make_node(operator, inputs, ["Y"], hidden_size=H, **attributes)

    def value(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None)

    graph = onnx.helper.make_graph([node], "cell", [value(name) for name in feeds], [value("Y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    (y,) = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(y)[:, 0, 0, :]


def test_cell_clip_bounds_the_cell_state() -> None:
    layer = LayerSpec(CellSpec(CellKind.LSTM, cell_clip=0.5), 2)
    weights = {
        "weight_ih": np.zeros((8, 1)),
        "weight_hh": np.zeros((8, 2)),
        "bias_ih": np.full(8, 9.0),
        "bias_hh": np.zeros(8),
    }
    h, c = reference.cell_step(layer, weights, np.zeros(1), np.zeros(2), np.array([3.0, -9.0]))
    np.testing.assert_array_equal(c, [0.5, -0.5])
    np.testing.assert_allclose(h, np.tanh(c) * reference.sigmoid(np.full(2, 9.0)))


def test_score_leaves_out_the_first_token() -> None:
    spec = ModelSpec(TokenInput(3, 1), (LayerSpec(CellSpec(CellKind.RNN_TANH), 1),), CategoricalHead(3))
    tensors = {name: np.ones(shape) for name, shape in spec.tensors().items()}
    np.testing.assert_allclose(reference.score(spec, tensors, [0, 2, 1]), np.log([1 / 3, 1 / 3]))
    assert reference.score(spec, tensors, [0]).shape == (0,)


def test_score_needs_a_categorical_head() -> None:
    spec = ModelSpec(FeatureInput(1), (LayerSpec(CellSpec(CellKind.LSTM), 1),), LinearHead(1))
    with pytest.raises(TypeError, match="categorical"):
        reference.score(spec, {}, [0, 1])
