"""What a model is: frozen, validated descriptions of cells, layers and whole models.

A spec is plain data. It is written as JSON (`spec_json`) into the metadata of a model file and decides the
name and shape of every tensor in that file (`ModelSpec.tensors`). Nothing here allocates weights.

Letters used throughout the package:
    V vocabulary size, K input size of a layer, H hidden units, P projection size (P = H without one),
    G gates of a cell, N outputs of a head, B lanes of a batch, S slots, T steps, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

MAX_WIDTH = 1 << 16
"""Largest hidden, input, embedding and projection size: keeps every size product within 64 bits."""
MAX_VOCABULARY = 1 << 20
MAX_LAYERS = 64
LEAST_CLIP, MOST_CLIP = 1e-30, 1e30
"""Bounds of a cell clip: well inside float32."""
MAX_ECHO = 80
"""Characters of a value that an error repeats."""


class SpecError(ValueError):
    """A spec is not valid. `field` names what is wrong, as a path into the JSON."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        super().__init__(f"{field}: got {_shortened(got)}, expected {expected}")
        self.field = field


def _shortened(value: object) -> str:
    """At most 80 characters of the value as Python writes it; a file may hold anything."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]}..."


class CellKind(StrEnum):
    """The recurrence of a layer. Equations: `keepgate_kernels.reference`."""

    RNN_TANH = "rnn_tanh"
    RNN_RELU = "rnn_relu"
    LSTM = "lstm"
    CIFG = "cifg"
    GRU = "gru"
    GRU_RESET_BEFORE = "gru_reset_before"


GATES: Mapping[CellKind, tuple[str, ...]] = {
    CellKind.RNN_TANH: ("h",),
    CellKind.RNN_RELU: ("h",),
    CellKind.LSTM: ("i", "f", "g", "o"),
    CellKind.CIFG: ("f", "g", "o"),
    CellKind.GRU: ("r", "z", "n"),
    CellKind.GRU_RESET_BEFORE: ("r", "z", "n"),
}
"""Gate blocks in the rows of the canonical weights, in PyTorch's order."""

HAS_CELL_STATE = frozenset({CellKind.LSTM, CellKind.CIFG})


@dataclass(frozen=True, slots=True)
class CellSpec:
    """A cell and its options. The options are for the two cells with a cell state (LSTM, CIFG).

    peepholes: gates see the cell state through diagonal weights (Gers and Schmidhuber, 2000).
    projection: P, the width of the projected hidden state; 0 means none (Sak et al., 2014).
    cell_clip: bound on the magnitude of the new cell state; 0 means none.
    """

    kind: CellKind
    peepholes: bool = False
    projection: int = 0
    cell_clip: float = 0.0

    def validate(self, field: str) -> None:
        _check_int(f"{field}.projection", self.projection, 0, MAX_WIDTH)
        if self.cell_clip != 0 and not LEAST_CLIP <= self.cell_clip <= MOST_CLIP:
            expected = f"0 for no clip, or from {LEAST_CLIP:g} to {MOST_CLIP:g}"
            raise SpecError(f"{field}.cell_clip", self.cell_clip, expected)
        optional = self.peepholes or self.projection or self.cell_clip
        if optional and self.kind not in HAS_CELL_STATE:
            raise SpecError(
                field,
                self.kind.value,
                "lstm or cifg where peepholes, projection or cell_clip are set",
            )


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One recurrent layer of H units."""

    cell: CellSpec
    hidden_size: int

    @property
    def output_size(self) -> int:
        """P, the width of h: what the next layer and the layer's own recurrence see."""
        return self.cell.projection or self.hidden_size

    @property
    def is_bounded(self) -> bool:
        """Whether every h of the layer lies in [-1, 1]."""
        return self.cell.kind is not CellKind.RNN_RELU and not self.cell.projection

    @property
    def cell_state_size(self) -> int:
        """Width of c: H for cells that have one, else 0."""
        return self.hidden_size if self.cell.kind in HAS_CELL_STATE else 0

    def tensors(self, prefix: str, input_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the layer's canonical tensors, K = input_size."""
        rows = len(GATES[self.cell.kind]) * self.hidden_size
        yield f"{prefix}.weight_ih", (rows, input_size)
        yield f"{prefix}.weight_hh", (rows, self.output_size)
        yield f"{prefix}.bias_ih", (rows,)
        yield f"{prefix}.bias_hh", (rows,)
        if self.cell.peepholes:
            yield (
                f"{prefix}.weight_peephole",
                (len(peephole_gates(self.cell.kind)), self.hidden_size),
            )
        if self.cell.projection:
            yield f"{prefix}.weight_projection", (self.cell.projection, self.hidden_size)


def peephole_gates(kind: CellKind) -> tuple[str, ...]:
    """Gates with a peephole, in the order of the rows of `weight_peephole`: all but the candidate g."""
    return tuple(gate for gate in GATES[kind] if gate != "g")


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids below `vocabulary_size`, looked up in an embedding of `embedding_size` columns."""

    vocabulary_size: int
    embedding_size: int


@dataclass(frozen=True, slots=True)
class FeatureInput:
    """Feature vectors of `size` float32 values."""

    size: int


@dataclass(frozen=True, slots=True)
class CategoricalHead:
    """Logits over `size` tokens; equals the vocabulary, so that a prediction can be fed back."""

    size: int


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A vector of `size` float32 values."""

    size: int


@dataclass(frozen=True, slots=True)
class CharacterTokenizer:
    """One token a character: token id i is `vocabulary[i]`."""

    vocabulary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole model: input, stack of layers, head, and the author's words about it.

    Raises SpecError at construction if any part is not valid.
    """

    input: TokenInput | FeatureInput
    layers: tuple[LayerSpec, ...]
    head: CategoricalHead | LinearHead
    tokenizer: CharacterTokenizer | None = None
    description: str = ""
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.input, TokenInput):
            _check_int("input.vocabulary_size", self.input.vocabulary_size, 1, MAX_VOCABULARY)
            _check_int("input.embedding_size", self.input.embedding_size, 1, MAX_WIDTH)
        else:
            _check_int("input.size", self.input.size, 1, MAX_WIDTH)
        _check_int("layers (count)", len(self.layers), 1, MAX_LAYERS)
        for index, layer in enumerate(self.layers):
            _check_int(f"layers.{index}.hidden_size", layer.hidden_size, 1, MAX_WIDTH)
            layer.cell.validate(f"layers.{index}.cell")
        _check_int("head.size", self.head.size, 1, MAX_VOCABULARY)
        if isinstance(self.input, TokenInput) != isinstance(self.head, CategoricalHead):
            raise SpecError(
                "head", type(self.head).__name__, "categorical after tokens, linear after features"
            )
        if isinstance(self.input, TokenInput) and self.head.size != self.input.vocabulary_size:
            raise SpecError("head.size", self.head.size, f"the vocabulary size, {self.input.vocabulary_size}")
        if self.tokenizer is not None:
            self._check_tokenizer(self.tokenizer)

    def _check_tokenizer(self, tokenizer: CharacterTokenizer) -> None:
        if not isinstance(self.input, TokenInput):
            raise SpecError("tokenizer", "characters", "none: the model takes features")
        vocabulary = tokenizer.vocabulary
        if len(vocabulary) != self.input.vocabulary_size:
            raise SpecError(
                "tokenizer.vocabulary (length)",
                len(vocabulary),
                f"the vocabulary size, {self.input.vocabulary_size}",
            )
        for index, entry in enumerate(vocabulary):
            if len(entry) != 1:
                raise SpecError(f"tokenizer.vocabulary.{index}", entry, "one character")
        if len(set(vocabulary)) != len(vocabulary):
            raise SpecError("tokenizer.vocabulary", "a character twice", "distinct characters")

    @property
    def input_size(self) -> int:
        """K of the first layer: the width of the embedding or of a feature vector."""
        if isinstance(self.input, TokenInput):
            return self.input.embedding_size
        return self.input.size

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every canonical tensor; all are float32."""
        shapes: dict[str, tuple[int, ...]] = {}
        if isinstance(self.input, TokenInput):
            shapes["embedding.weight"] = (self.input.vocabulary_size, self.input.embedding_size)
        width = self.input_size
        for index, layer in enumerate(self.layers):
            shapes.update(layer.tensors(f"layers.{index}", width))
            width = layer.output_size
        shapes["head.weight"] = (self.head.size, width)
        shapes["head.bias"] = (self.head.size,)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of trained numbers."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    @property
    def state_bytes(self) -> int:
        """Bytes of one session's state: float32 h and c of every layer."""
        return 4 * sum(layer.output_size + layer.cell_state_size for layer in self.layers)


Tensor = TypeVar("Tensor")


def layer_tensors(tensors: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors of one layer by their short names: "layers.0.bias_ih" is "bias_ih" of layer 0."""
    prefix = f"layers.{index}."
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def _check_int(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SpecError(field, value, f"an integer from {low} to {high}")
