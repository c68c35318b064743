"""The equations, in float64 NumPy, on one page: the oracle of every kernel and their documentation.

All functions take canonical tensors (the names and shapes of `ModelSpec.tensors`, PyTorch's gate order and
orientation) and work on one sequence. Sources: Elman (1990) RNN; Gers, Schmidhuber and Cummins (2000)
LSTM with forget gate; Gers and Schmidhuber (2000) peepholes; Sak, Senior and Beaufays (2014) projection and
cell clip; Greff et al. (2017) coupled gates (CIFG); Cho et al. (2014) GRU with the reset before the
product; PyTorch's and cuDNN's GRU with the reset after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.spec import (
    GATES,
    HAS_CELL_STATE,
    CategoricalHead,
    CellKind,
    LayerSpec,
    ModelSpec,
    TokenInput,
    layer_tensors,
)

Array = NDArray[np.float64]
Tensors = Mapping[str, NDArray[np.floating]]
State = list[tuple[Array, Array]]
"""(h [P], c [H]) of every layer; c is empty for cells without a cell state."""


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that it does not overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def cell_step(layer: LayerSpec, weights: Tensors, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One step of one layer. weights: the layer's tensors by short name; x [K], h [P], c [H] or [0]."""
    kind = layer.cell.kind
    size = layer.hidden_size
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    from_x = w["weight_ih"] @ x + w["bias_ih"]
    from_h = w["weight_hh"] @ h + w["bias_hh"]

    def block(rows: Array, gate: str) -> Array:
        index = GATES[kind].index(gate)
        return rows[index * size : (index + 1) * size]

    if kind in HAS_CELL_STATE:
        return _lstm(layer, w, {gate: block(from_x + from_h, gate) for gate in GATES[kind]}, c)
    if kind is CellKind.RNN_TANH:
        return np.tanh(from_x + from_h), c
    if kind is CellKind.RNN_RELU:
        return np.maximum(from_x + from_h, 0.0), c

    r = sigmoid(block(from_x, "r") + block(from_h, "r"))
    z = sigmoid(block(from_x, "z") + block(from_h, "z"))
    if kind is CellKind.GRU:
        n = np.tanh(block(from_x, "n") + r * block(from_h, "n"))
    else:
        recurrent = block(w["weight_hh"], "n") @ (r * h) + block(w["bias_hh"], "n")
        n = np.tanh(block(from_x, "n") + recurrent)
    return (1.0 - z) * n + z * h, c


def _lstm(layer: LayerSpec, w: dict[str, Array], gates: dict[str, Array], c: Array) -> tuple[Array, Array]:
    coupled = layer.cell.kind is CellKind.CIFG
    peephole = (
        dict(zip("fo" if coupled else "ifo", w["weight_peephole"], strict=True))
        if layer.cell.peepholes
        else {"i": 0.0, "f": 0.0, "o": 0.0}
    )
    f = sigmoid(gates["f"] + peephole["f"] * c)
    i = 1.0 - f if coupled else sigmoid(gates["i"] + peephole["i"] * c)
    c = f * c + i * np.tanh(gates["g"])
    if layer.cell.cell_clip:
        c = np.clip(c, -layer.cell.cell_clip, layer.cell.cell_clip)
    h = sigmoid(gates["o"] + peephole["o"] * c) * np.tanh(c)
    if layer.cell.projection:
        h = w["weight_projection"] @ h
    return h, c


def zero_state(spec: ModelSpec) -> State:
    """The state of a session at position 0."""
    return [(np.zeros(layer.output_size), np.zeros(layer.cell_state_size)) for layer in spec.layers]


def step(spec: ModelSpec, tensors: Tensors, state: State, x: int | Array) -> tuple[Array, State]:
    """Apply one input (a token id or a feature vector [K]); returns the head's values [N], new state."""
    if isinstance(spec.input, TokenInput):
        value = np.asarray(tensors["embedding.weight"][x], np.float64)
    else:
        value = np.asarray(x, np.float64)
    after: State = []
    for index, (layer, (h, c)) in enumerate(zip(spec.layers, state, strict=True)):
        weights = layer_tensors(tensors, index)
        after.append(cell_step(layer, weights, value, h, c))
        value = after[-1][0]
    return head(tensors, value), after


def head(tensors: Tensors, h: Array) -> Array:
    """Logits or linear outputs [N] of the last layer's h [P]."""
    return np.asarray(tensors["head.weight"], np.float64) @ h + tensors["head.bias"]


def run(
    spec: ModelSpec, tensors: Tensors, inputs: Sequence[int] | Array, state: State | None = None
) -> tuple[Array, State]:
    """Apply T inputs; returns the head's values after each of them [T, N], and the final state."""
    state = zero_state(spec) if state is None else state
    outputs = []
    for x in inputs:
        values, state = step(spec, tensors, state, x)
        outputs.append(values)
    return np.array(outputs).reshape(len(outputs), spec.head.size), state


def log_softmax(logits: Array) -> Array:
    """Natural log-probabilities over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float64)


def score(spec: ModelSpec, tensors: Tensors, tokens: Sequence[int]) -> Array:
    """Natural log-probability of every token but the first, given those before it: [T - 1]."""
    if not isinstance(spec.head, CategoricalHead):
        raise TypeError("score needs a categorical head")
    values, _ = run(spec, tensors, tokens[:-1])
    log_probabilities: Array = log_softmax(values)[
        np.arange(len(tokens) - 1), np.asarray(tokens[1:], np.int64)
    ]
    return log_probabilities
