"""Canonical tensors to what the kernels read: tiles of weights, values, and the plan of every product.

A layer is one product, or two: the LSTM's and the CIFG's projection, and the n of a GRU with the reset before
the product. Layer 0 of a token model needs no product with its input: `embedding @ weight_ih + bias` is a
table of one row a token ("folding"), in float32 in every precision, unless it would be larger than
`MAX_TABLE_BYTES`. Groups of sums, and so of starts: i f g o; f g o; n from x, r, z, n from h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda import plan as p
from keepgate_kernels.cuda.choice import Work
from keepgate_kernels.cuda.layout import Layout
from keepgate_kernels.cuda.tiles import CHUNK_WORDS, UNITS, blocks_of, chunk_of, padded_k
from keepgate_kernels.rounding import LEAST_SCALE, LEVELS, to_bfloat16
from keepgate_kernels.spec import (
    GATES,
    CellKind,
    FeatureInput,
    LayerSpec,
    ModelSpec,
    layer_tensors,
    peephole_gates,
)
from keepgate_kernels.weights import MAX_TABLE_BYTES, Float32


@dataclass
class Product:
    """One launch: how many gates its kernel has, its plan, and the precision of its rows and weights."""

    gates: int
    plan: NDArray[np.int64]
    precision: str

    @property
    def blocks(self) -> int:
        """Blocks of eight units."""
        return int(self.plan[p.WIDTH]) // UNITS

    @cached_property
    def work(self) -> Work:
        """What its shape is chosen by."""
        chunks = self.plan[p.X_CHUNKS] + self.plan[p.H_CHUNKS]
        return Work(self.precision, self.gates, self.blocks, int(chunks))


@dataclass
class Packed:
    """weights: uint32 [*]; values: float32 [*]; layers: the products of each; head; feed: the plan of the
    rows that layer 0 reads, if it reads any."""

    weights: NDArray[np.uint32]
    values: NDArray[np.float32]
    layers: list[list[Product]]
    head: Product
    feed: NDArray[np.int64] | None


@dataclass
class _Packer:
    precision: str
    weights: list[NDArray[np.uint32]] = field(default_factory=list)
    values: list[Float32] = field(default_factory=list)
    words: int = 0
    numbers: int = 0

    def add_values(self, values: Float32) -> int:
        at = self.numbers
        self.values.append(np.ascontiguousarray(values, np.float32).reshape(-1))
        self.numbers += values.size
        return at

    def add_matrix(self, plan: NDArray[np.int64], phase: str, gates: list[Float32]) -> None:
        """Tiles of gates [K, units] for the phase "X" or "H" of a product."""
        tiles, scales = pack_tiles(gates, self.precision)
        plan[getattr(p, f"{phase}_WEIGHTS")] = self.words
        plan[getattr(p, f"{phase}_CHUNKS")] = tiles.shape[1]
        self.weights.append(tiles.reshape(-1))
        self.words += tiles.size
        plan[getattr(p, f"{phase}_WEIGHT_SCALES")] = self.add_values(scales)


def pack(spec: ModelSpec, tensors: Mapping[str, Float32], precision: str, layout: Layout) -> Packed:
    """Lay a model out. The tensors have passed `check_tensors`; layout says where states and rows lie."""
    packer = _Packer(precision)
    layers = [_layer(packer, spec, tensors, index, layout) for index in range(len(spec.layers))]
    feed = _input(packer, spec, tensors, layers[0][0].plan, layout)
    head = _plan(p.HEAD, spec.head.size)
    layout.reads_state(head, "H", len(spec.layers) - 1, p.FINAL)
    packer.add_matrix(head, "H", [tensors["head.weight"].T])
    head[p.START] = packer.add_values(_padded(tensors["head.bias"][None], 1, int(head[p.WIDTH])))
    layout.writes_logits(head)
    return Packed(
        np.concatenate(packer.weights),
        np.concatenate(packer.values),
        layers,
        Product(1, head, precision),
        feed,
    )


def _plan(kind: int, units: int) -> NDArray[np.int64]:
    plan = np.full(p.LENGTH, p.ABSENT, np.int64)
    plan[p.KIND], plan[p.UNITS_OF], plan[p.WIDTH] = kind, units, blocks_of(units) * UNITS
    for place in (p.X_CHUNKS, p.X_WEIGHTS, p.X_WEIGHT_SCALES, p.H_CHUNKS, p.START_STRIDE, p.OUT_BOUNDED):
        plan[place] = 0
    for phase in ("X", "H"):  # a phase without chunks reads nothing, but its place is computed
        for name in ("PLACE", "BASE", "HALF"):
            plan[getattr(p, f"{phase}_{name}")] = 0
        plan[getattr(p, f"{phase}_STRIDE")] = 1
    return plan


def _layer(
    packer: _Packer, spec: ModelSpec, tensors: Mapping[str, Float32], index: int, layout: Layout
) -> list[Product]:
    layer, own = spec.layers[index], layer_tensors(tensors, index)
    kind, cell = layer.cell.kind, layer.cell
    plan = _plan(p.KIND_CODES[kind], layer.hidden_size)
    x, h = _by_gate(layer, own["weight_ih"]), _by_gate(layer, own["weight_hh"])
    order = {CellKind.GRU: ("n", "r", "z"), CellKind.GRU_RESET_BEFORE: ("n", "r", "z")}.get(kind, GATES[kind])
    recurrent = [h[gate] for gate in order]
    if kind is CellKind.GRU:
        recurrent = [h["r"], h["z"], h["n"]]
    elif kind is CellKind.GRU_RESET_BEFORE:
        recurrent = [h["r"], h["z"], np.zeros_like(h["n"])]
    if index > 0 or layout.input_width:
        packer.add_matrix(plan, "X", [x[gate] for gate in order])
        if index > 0:
            layout.reads_state(plan, "X", index - 1, p.NEW)
        else:
            layout.reads_inputs(plan)
    packer.add_matrix(plan, "H", recurrent)
    layout.reads_state(plan, "H", index, p.OLD)
    width = int(plan[p.WIDTH])
    plan[p.START] = packer.add_values(_starts(layer, own, width))
    if cell.peepholes or cell.cell_clip:
        plan[p.OPTIONS] = packer.add_values(_options(layer, own, width))
    layout.has_cell(plan, index)
    gates = p.GATES_OF[int(plan[p.KIND])]
    if not cell.projection and kind is not CellKind.GRU_RESET_BEFORE:
        layout.writes_state(plan, index, layer.is_bounded)
        return [Product(gates, plan, packer.precision)]

    layout.writes_wide(plan)
    if cell.projection:
        second = _plan(p.PROJECTION, cell.projection)
        packer.add_matrix(second, "H", [own["weight_projection"].T])
        second[p.START] = packer.add_values(np.zeros((1, int(second[p.WIDTH])), np.float32))
    else:
        layout.writes_sums(plan)
        layout.keeps_state(plan, index)
        second = _plan(p.GRU_SECOND, layer.hidden_size)
        packer.add_matrix(second, "H", [h["n"]])
        second[p.START] = plan[p.START]
        layout.writes_sums(second)
    layout.reads_wide(second)
    layout.writes_state(second, index, layer.is_bounded)
    return [Product(gates, plan, packer.precision), Product(1, second, packer.precision)]


def _input(
    packer: _Packer, spec: ModelSpec, tensors: Mapping[str, Float32], plan: NDArray[np.int64], layout: Layout
) -> NDArray[np.int64] | None:
    """Fold the embedding into layer 0's starts, or the plan of its rows."""
    if layout.input_width:
        feed = _plan(p.FEED_FEATURES, spec.input_size)
        if not isinstance(spec.input, FeatureInput):
            feed[p.KIND] = p.FEED_TABLE
            feed[p.START] = packer.add_values(tensors["embedding.weight"])
            feed[p.START_STRIDE] = spec.input_size
        layout.writes_inputs(feed)
        return feed
    layer, own = spec.layers[0], layer_tensors(tensors, 0)
    width = int(plan[p.WIDTH])
    groups = _starts(layer, own, width)
    embedding = tensors["embedding.weight"].astype(np.float64)
    table = np.repeat(groups[None], len(embedding), axis=0)
    gates = _by_gate(layer, own["weight_ih"])
    order = ("n", "r", "z") if layer.cell.kind in _GRUS else GATES[layer.cell.kind]
    for group, gate in enumerate(order):
        product = embedding @ gates[gate].astype(np.float64)
        table[:, group, : layer.hidden_size] = (table[:, group, : layer.hidden_size] + product).astype(
            np.float32
        )
    plan[p.START] = packer.add_values(table)
    plan[p.START_STRIDE] = table[0].size
    return None


_GRUS = (CellKind.GRU, CellKind.GRU_RESET_BEFORE)


def folds(spec: ModelSpec) -> bool:
    """Whether layer 0's products with its input become a table."""
    if isinstance(spec.input, FeatureInput):
        return False
    width = blocks_of(spec.layers[0].hidden_size) * UNITS
    return spec.input.vocabulary_size * groups_of(spec.layers[0]) * width * 4 <= MAX_TABLE_BYTES


def groups_of(layer: LayerSpec) -> int:
    """Groups of sums of a layer."""
    return 4 if layer.cell.kind is CellKind.GRU else len(GATES[layer.cell.kind])


def pack_tiles(gates: list[Float32], precision: str) -> tuple[NDArray[np.uint32], Float32]:
    """Gates [K, units] as tiles [blocks * gates, chunks, words], and int8's scales [blocks * gates * 8].

    See `tiles` for the words and `product` for the order of fp32's.
    """
    inner, units = gates[0].shape
    blocks, size = blocks_of(units), chunk_of(precision)
    matrix = np.stack([_padded(gate, padded_k(inner, precision), blocks * UNITS) for gate in gates])
    scales = np.ones((len(gates), blocks * UNITS), np.float32)
    if precision == "int8":
        exact = matrix.astype(np.float64)
        scale = np.maximum(np.abs(exact).max(axis=1), LEAST_SCALE) / LEVELS
        numbers: NDArray[np.generic] = np.rint(exact / scale[:, None]).astype(np.int8)
        scales = scale.astype(np.float32)
    elif precision == "bf16":
        numbers = to_bfloat16(matrix)
    else:
        numbers = matrix
    tiles = numbers.reshape(len(gates), -1, size, blocks, UNITS).transpose(3, 0, 1, 4, 2)
    if precision == "fp32":
        quads = tiles.reshape(*tiles.shape[:-1], 4, 4)
        column, place = np.arange(UNITS)[:, None], np.arange(4)
        tiles = quads[..., column, place ^ (column >> 1), :]
    words = np.ascontiguousarray(tiles).reshape(-1).view(np.uint32)
    ordered = scales.reshape(len(gates), blocks, UNITS).transpose(1, 0, 2)
    return words.reshape(blocks * len(gates), -1, UNITS * CHUNK_WORDS), np.ascontiguousarray(ordered)


def _by_gate(layer: LayerSpec, rows: Float32) -> dict[str, Float32]:
    """Canonical weights [G*H, K] by gate, each [K, H]."""
    gates = rows.reshape(-1, layer.hidden_size, rows.shape[1])
    return {gate: part.T for gate, part in zip(GATES[layer.cell.kind], gates, strict=True)}


def _starts(layer: LayerSpec, own: Mapping[str, Float32], width: int) -> Float32:
    """What sums start from, [groups, width]."""
    gates, kind = GATES[layer.cell.kind], layer.cell.kind
    ih = dict(zip(gates, own["bias_ih"].reshape(-1, layer.hidden_size), strict=True))
    hh = dict(zip(gates, own["bias_hh"].reshape(-1, layer.hidden_size), strict=True))
    both = {gate: ih[gate] + hh[gate] for gate in gates}
    if kind is CellKind.GRU:
        rows = [ih["n"], both["r"], both["z"], hh["n"]]
    else:
        rows = [both[gate] for gate in (("n", "r", "z") if kind in _GRUS else gates)]
    return _padded(np.stack(rows), len(rows), width)


def _options(layer: LayerSpec, own: Mapping[str, Float32], width: int) -> Float32:
    """Peepholes, then the clip: [gates with a peephole + 1, width]."""
    count = len(peephole_gates(layer.cell.kind))
    rows = np.zeros((count + 1, width), np.float32)
    if layer.cell.peepholes:
        rows[:count, : layer.hidden_size] = own["weight_peephole"]
    rows[count] = layer.cell.cell_clip or np.inf
    return rows


def _padded(matrix: Float32, rows: int, columns: int) -> Float32:
    out: Float32 = np.zeros((rows, columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out
