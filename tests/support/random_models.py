"""Small random models of any cell, for tests in which training does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    FeatureInput,
    LayerSpec,
    LinearHead,
    ModelSpec,
    TokenInput,
)
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]


def token_spec(
    kind: CellKind | str = CellKind.LSTM,
    *,
    vocabulary: int = 11,
    embedding: int = 3,
    hidden: tuple[int, ...] = (8,),
    peepholes: bool = False,
    projection: int = 0,
    cell_clip: float = 0.0,
) -> ModelSpec:
    """A token model with one layer for each entry of `hidden`."""
    cell = CellSpec(CellKind(kind), peepholes, projection, cell_clip)
    layers = tuple(LayerSpec(cell, size) for size in hidden)
    return ModelSpec(TokenInput(vocabulary, embedding), layers, CategoricalHead(vocabulary))


def feature_spec(
    kind: CellKind | str = CellKind.GRU,
    *,
    size: int = 3,
    outputs: int = 2,
    hidden: tuple[int, ...] = (8,),
    peepholes: bool = False,
    projection: int = 0,
    cell_clip: float = 0.0,
) -> ModelSpec:
    """A feature model with one layer for each entry of `hidden`."""
    cell = CellSpec(CellKind(kind), peepholes, projection, cell_clip)
    layers = tuple(LayerSpec(cell, width) for width in hidden)
    return ModelSpec(FeatureInput(size), layers, LinearHead(outputs))


def random_tensors(spec: ModelSpec, seed: int = 0) -> Tensors:
    """Weights of the size that training starts from, so that no recurrence is chaotic."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in spec.tensors().items():
        scale = 0.7 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.3
        if name == "head.weight":
            scale = 2.0 / np.sqrt(shape[-1])
        tensors[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
    return tensors


def random_inputs(spec: ModelSpec, shape: tuple[int, ...], seed: int = 1) -> Any:
    """uint32 token ids [*shape], or float32 features [*shape, K]."""
    rng = np.random.default_rng(seed)
    if isinstance(spec.input, TokenInput):
        return rng.integers(0, spec.input.vocabulary_size, shape, dtype=np.uint32)
    return rng.standard_normal((*shape, spec.input.size)).astype(np.float32)
