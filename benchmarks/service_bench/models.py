"""The two models of the comparison, with the same random weights for every server."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from keepgate.models.format import save_model
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    CharacterTokenizer,
    LayerSpec,
    ModelSpec,
    TokenInput,
)
from keepgate_kernels.spec import layer_tensors
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Float32 = NDArray[np.float32]

CHARACTERS = string.ascii_letters + string.digits + " \n.,;:!?'\"()-_&$"
OPSET = 21
IR_VERSION = 10
GATES = ("i", "f", "g", "o")
ONNX_GATES = ("i", "o", "f", "g")
WEIGHTS, GRAPH = "weights.npz", "step.onnx"


@dataclass(frozen=True)
class Case:
    """A character model. `name` is its name in the repository, `title` that in tables."""

    name: str
    title: str
    layers: int
    hidden: int
    embedding: int

    def spec(self) -> ModelSpec:
        """Its architecture, with a tokenizer: answers carry the character too."""
        layers = (LayerSpec(CellSpec(CellKind.LSTM), self.hidden),) * self.layers
        size = len(CHARACTERS)
        return ModelSpec(
            TokenInput(size, self.embedding),
            layers,
            CategoricalHead(size),
            tokenizer=CharacterTokenizer(tuple(CHARACTERS)),
        )


CASES = (
    Case("lstm-128", "LSTM-128", 1, 128, 32),
    Case("lstm-2x512", "2 x LSTM-512", 2, 512, 64),
)


def random_tensors(case: Case) -> dict[str, Float32]:
    """Weights as PyTorch initialises them, except for a livelier embedding and head: uneven logits."""
    rng = np.random.default_rng(0)
    scale = np.float32(case.hidden**-0.5)
    tensors = {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * scale
        for name, shape in case.spec().tensors().items()
    }
    for name in ("embedding.weight", "head.weight"):
        tensors[name] = rng.normal(0, 1, tensors[name].shape).astype(np.float32)
    return tensors


def write(case: Case, folder: Path) -> None:
    """models/<name>/1/model.safetensors for Keepgate; the arrays and an ONNX graph for the others."""
    tensors = random_tensors(case)
    path = folder / "models" / case.name / "1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_model(path, case.spec(), tensors)
    np.savez(folder / WEIGHTS, **tensors)  # type: ignore[arg-type]  # the stubs take the names for options
    onnx.save(graph(case, tensors), folder / GRAPH)
    (folder / "characters").write_text(CHARACTERS, newline="")


def _reordered(rows: Float32) -> Float32:
    """Gate blocks of rows [4 H, ...] from PyTorch's order to ONNX's."""
    blocks = dict(zip(GATES, np.split(rows, len(GATES)), strict=True))
    return np.concatenate([blocks[gate] for gate in ONNX_GATES])


def graph(case: Case, tensors: Mapping[str, Float32]) -> onnx.ModelProto:
    """One step: tokens [B] and, for each layer, h and c [1, B, H] in; token [B], log_probability [B] and the
    new states out. The recurrence is ONNX's LSTM operator over a sequence of one."""
    node = helper.make_node
    constants: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "embedding": tensors["embedding.weight"],
        "head_weight": tensors["head.weight"],
        "head_bias": tensors["head.bias"],
        "first": np.array([0], np.int64),
    }
    nodes = [node("Gather", ["embedding", "tokens"], ["x"]), node("Unsqueeze", ["x", "first"], ["y0"])]
    for index in range(case.layers):
        layer = layer_tensors(tensors, index)
        constants[f"W{index}"] = _reordered(layer["weight_ih"])[None]
        constants[f"R{index}"] = _reordered(layer["weight_hh"])[None]
        bias = [_reordered(layer[name]) for name in ("bias_ih", "bias_hh")]
        constants[f"B{index}"] = np.concatenate(bias)[None]
        inputs = [f"y{index}", f"W{index}", f"R{index}", f"B{index}", "", f"h{index}", f"c{index}"]
        outputs = ["", f"h{index}_next", f"c{index}_next"]
        nodes.append(node("LSTM", inputs, outputs, hidden_size=case.hidden))
        nodes.append(node("Identity", [f"h{index}_next"], [f"y{index + 1}"]))
    nodes += [
        node("Squeeze", [f"y{case.layers}", "first"], ["top"]),
        node("Gemm", ["top", "head_weight", "head_bias"], ["logits"], transB=1),
        node("LogSoftmax", ["logits"], ["log_probabilities"], axis=1),
        node("ArgMax", ["log_probabilities"], ["token"], axis=1, keepdims=0),
        node("ReduceMax", ["log_probabilities", "last"], ["log_probability"], keepdims=0),
    ]
    constants["last"] = np.array([1], np.int64)
    states = [f"{letter}{index}" for index in range(case.layers) for letter in "hc"]

    def values(names: list[str], suffix: str = "") -> list[onnx.ValueInfoProto]:
        shape: list[int | str | None] = [1, "batch", case.hidden]
        return [helper.make_tensor_value_info(n + suffix, TensorProto.FLOAT, shape) for n in names]

    model = helper.make_model(
        helper.make_graph(
            nodes,
            "step",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch"]), *values(states)],
            [
                helper.make_tensor_value_info("token", TensorProto.INT64, ["batch"]),
                helper.make_tensor_value_info("log_probability", TensorProto.FLOAT, ["batch"]),
                *values(states, "_next"),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model
