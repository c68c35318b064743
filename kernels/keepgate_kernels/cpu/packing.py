"""Canonical tensors to what the kernels read: one buffer of packed weights, and a plan that says where.

The layout follows the processor's rung and the precision; it never leaves the process. A layer's units come
in blocks of a vector, the gates of a block side by side, so that a block's products can become new state at
once. Sums of a lane (and so biases, and the table of a folded embedding) have the same order:
    RNN                 3 or 4 vectors of units a block
    LSTM, CIFG          i f g o, f g o
    GRU                 n from x, r, z, n from h
    GRU_RESET_BEFORE    whole rows: r of all units, z, n
Widths are padded to whole vectors with zeros: padded units have zero weights and stay zero in every cell.

Layer 0 of a token model needs no input product: `embedding @ weight_ih + bias` is a table of one row a token
("folding"), in float32 in every precision, unless it would be larger than `MAX_TABLE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.dots import Dot
from keepgate_kernels.cpu.memory import LINE, aligned
from keepgate_kernels.cpu.native import FEWEST_VECTORS, MOST_VECTORS
from keepgate_kernels.cpu.plan import (
    ABSENT,
    EMBEDDED,
    ENDS,
    FEATURES,
    FOLDED,
    KIND_CODES,
    LAYER,
)
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
from keepgate_kernels.weights import MAX_TABLE_BYTES, Float32, padded

LEAD = LINE
"""Bytes in front of the first block, which some kernels read over."""


class Packed(NamedTuple):
    """weights: uint8 [*], starts at a cache line; layers: LAYER [L]; ends: ENDS [1]."""

    weights: NDArray[np.uint8]
    layers: NDArray[np.void]
    ends: NDArray[np.void]


class _Buffer:
    """Appends arrays, each at a cache line, and remembers where."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, NDArray[np.uint8]]] = []
        self.length = LEAD

    def add(self, values: NDArray[np.generic]) -> int:
        piece = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        offset = self.length
        self.pieces.append((offset, piece))
        self.length += -(-piece.size // LINE) * LINE
        return offset

    def joined(self) -> NDArray[np.uint8]:
        memory = aligned(self.length)
        for offset, piece in self.pieces:
            memory[offset : offset + piece.size] = piece
        return memory


def pack(spec: ModelSpec, tensors: Mapping[str, Float32], precision: str) -> Packed:
    """Lay the weights out for the CPU kernels. The tensors have passed `check_tensors`."""
    packer = _Packer(precision)
    layers = np.zeros(len(spec.layers), LAYER)
    ends = np.zeros(1, ENDS)
    for index, layer in enumerate(spec.layers):
        packer.add_layer(layers[index], layer, layer_tensors(tensors, index))
        layers[index]["input_bounded"] = index > 0 and spec.layers[index - 1].is_bounded
    end = ends[0]
    packer.add_input(end, int(layers["width"][0]), spec, tensors)
    last = spec.layers[-1]
    head = _linear(_pad(tensors["head.weight"].T, padded(last.output_size), spec.head.size))
    end["head"] = packer.add_matrix(head)
    end["size"], end["width"] = spec.head.size, head.shape[1] * head.shape[2]
    end["bias"] = packer.buffer.add(_pad(tensors["head.bias"][None], 1, int(end["width"])))
    end["bounded"] = last.is_bounded
    return Packed(packer.buffer.joined(), layers, ends)


class _Packer:
    def __init__(self, precision: str) -> None:
        self.buffer = _Buffer()
        self.dot = RUNG.dot(precision)

    def add_matrix(self, weights: Float32) -> tuple[int, ...]:
        """A MATRIX record of weights [K, blocks, columns of a block], K padded."""
        inner, count, columns = weights.shape
        packed = np.stack([pack_block(weights[:, block], self.dot) for block in range(count)])
        return self.buffer.add(packed), count, columns // RUNG.lanes, inner // self.dot.group, packed.shape[1]

    def add_layer(self, row: NDArray[np.void], layer: LayerSpec, own: Mapping[str, Float32]) -> None:
        kind = layer.cell.kind
        hidden, output = padded(layer.hidden_size), padded(layer.output_size)
        bias = _arranged(kind, _biases(layer, own))
        row["kind"], row["hidden"], row["output"] = KIND_CODES[kind], hidden, output
        row["inner"] = padded(own["weight_ih"].shape[1])
        row["width"], row["block"] = bias.size, bias.shape[2]
        row["bias"] = self.buffer.add(bias)
        row["options"] = self.buffer.add(_options(layer, own)) if _has_options(layer) else ABSENT
        row["bounded"] = layer.is_bounded

        x, h = _by_gate(layer, own["weight_ih"]), _by_gate(layer, own["weight_hh"])
        second = None
        if kind is CellKind.GRU:
            row["x"] = self.add_matrix(_side_by_side([x["n"], x["r"], x["z"]]))
            row["h"] = self.add_matrix(_side_by_side([h["r"], h["z"], h["n"]]))
        elif kind is CellKind.GRU_RESET_BEFORE:
            row["x"] = self.add_matrix(_linear(np.concatenate(list(x.values()), axis=1)))
            row["block"] = row["x"]["vectors"] * RUNG.lanes
            row["h"] = self.add_matrix(_linear(np.concatenate([h["r"], h["z"]], axis=1)))
            second = h["n"]
        else:
            row["x"] = self.add_matrix(_arranged(kind, x))
            row["h"] = self.add_matrix(_arranged(kind, h))
        if layer.cell.projection:
            second = _pad(own["weight_projection"].T, hidden, output)
        if second is None:
            row["second"]["offset"] = ABSENT
        else:
            row["second"] = self.add_matrix(_linear(second))

    def add_input(
        self, ends: NDArray[np.void], width: int, spec: ModelSpec, tensors: Mapping[str, Float32]
    ) -> None:
        """The input's end; `width` of the first layer's sums."""
        ends["input_size"] = spec.input_size
        if isinstance(spec.input, FeatureInput):
            ends["input_kind"] = FEATURES
            return
        embedding = tensors["embedding.weight"]
        if len(embedding) * width * 4 > MAX_TABLE_BYTES:
            ends["input_kind"] = EMBEDDED
            ends["table"] = self.buffer.add(_pad(embedding, len(embedding), padded(spec.input_size)))
            return
        layer, own = spec.layers[0], layer_tensors(tensors, 0)
        exact = embedding.astype(np.float64)
        rows = {}
        for gate, bias in _biases(layer, own).items():
            rows[gate] = np.repeat(bias, len(embedding), axis=0)
            if gate != FROM_H:
                weights = _by_gate(layer, own["weight_ih"])[gate][: spec.input_size]
                rows[gate] = (rows[gate] + exact @ weights.astype(np.float64)).astype(np.float32)
        ends["input_kind"] = FOLDED
        ends["table"] = self.buffer.add(_arranged(layer.cell.kind, rows))


FROM_H = "n from h"
"""The part of the GRU's n that the reset gate scales."""


def pack_block(weights: Float32, dot: Dot) -> NDArray[np.uint8]:
    """Weights [K, columns] as the bytes that `matmul.product` reads."""
    inner, columns = weights.shape
    header = np.zeros(0, np.uint8)
    if dot.integer:
        exact = weights.astype(np.float64)
        scale = np.maximum(np.abs(exact).max(axis=0), LEAST_SCALE) / LEVELS
        values = np.rint(exact / scale).astype(np.int8)
        shift = -dot.zero_point * values.astype(np.int32).sum(axis=0, dtype=np.int32)
        header = np.concatenate([scale.astype(np.float32).view(np.uint8), shift.view(np.uint8)])
    elif dot.w_bits == 16:
        values = to_bfloat16(weights)
    else:
        values = weights
    lanes = RUNG.lanes
    grouped = values.reshape(inner // dot.group, dot.group, columns // lanes, lanes)
    stream = np.ascontiguousarray(grouped.transpose(0, 2, 3, 1)).reshape(-1).view(np.uint8)
    packed = np.zeros(-(-(header.size + stream.size) // LINE) * LINE, np.uint8)
    packed[: header.size + stream.size] = np.concatenate([header, stream])
    return packed


def _by_gate(layer: LayerSpec, rows: Float32) -> dict[str, Float32]:
    """Canonical weights [G*H, K] by gate, each [padded K, padded H]."""
    size, inner = layer.hidden_size, rows.shape[1]
    gates = rows.reshape(-1, size, inner)
    return {
        gate: _pad(part.T, padded(inner), padded(size))
        for gate, part in zip(GATES[layer.cell.kind], gates, strict=True)
    }


def _biases(layer: LayerSpec, own: Mapping[str, Float32]) -> dict[str, Float32]:
    """What sums start from, [1, padded H] a gate, in the order of a block."""
    size = layer.hidden_size
    gates = GATES[layer.cell.kind]
    ih = dict(zip(gates, own["bias_ih"].reshape(-1, 1, size), strict=True))
    hh = dict(zip(gates, own["bias_hh"].reshape(-1, 1, size), strict=True))
    rows = {gate: ih[gate] + hh[gate] for gate in gates}
    if layer.cell.kind is CellKind.GRU:
        rows = {"n": ih["n"], "r": rows["r"], "z": rows["z"], FROM_H: hh["n"]}
    return {gate: _pad(row, 1, padded(size)) for gate, row in rows.items()}


def _arranged(kind: CellKind, by_gate: Mapping[str, Float32]) -> Float32:
    """Gates [K, padded H] in the order of sums, [K, blocks, columns of a block]."""
    gates = list(by_gate.values())
    if kind in (CellKind.LSTM, CellKind.CIFG, CellKind.GRU):
        return _side_by_side(gates)
    arranged = _linear(np.concatenate(gates, axis=1))
    if kind is not CellKind.GRU_RESET_BEFORE:
        return arranged
    row = arranged.reshape(len(arranged), 1, -1)
    return np.pad(row, ((0, 0), (0, 0), (0, slack_of_sums(kind))))


def _side_by_side(gates: list[Float32]) -> Float32:
    """[K, blocks, G vectors], a block for every vector of units."""
    inner, hidden = gates[0].shape
    lanes = RUNG.lanes
    return np.stack([gate.reshape(inner, hidden // lanes, lanes) for gate in gates], axis=2).reshape(
        inner, hidden // lanes, len(gates) * lanes
    )


def linear_shape(columns: int) -> tuple[int, int]:
    """Blocks, and columns of a block, 3 or 4 vectors of them, whichever leaves fewer columns of padding."""
    widths = [vectors * RUNG.lanes for vectors in (MOST_VECTORS, FEWEST_VECTORS)]
    width = min(widths, key=lambda width: -columns % width)
    return -(-columns // width), width


def _linear(matrix: Float32) -> Float32:
    """[K, N] to [K, blocks, columns of a block]."""
    inner, columns = matrix.shape
    blocks, width = linear_shape(columns)
    return _pad(matrix, inner, blocks * width).reshape(inner, blocks, width)


def slack_of_sums(kind: CellKind) -> int:
    """Float32 numbers behind a row of sums: room for the last block of the product that begins at n."""
    return MOST_VECTORS * RUNG.lanes if kind is CellKind.GRU_RESET_BEFORE else 0


def _has_options(layer: LayerSpec) -> bool:
    return layer.cell.peepholes or layer.cell.cell_clip > 0


def _options(layer: LayerSpec, own: Mapping[str, Float32]) -> Float32:
    """Peepholes, then the clip, in blocks: [blocks, gates with a peephole + 1, lanes]."""
    hidden = padded(layer.hidden_size)
    count = len(peephole_gates(layer.cell.kind))
    rows = np.zeros((count + 1, hidden), np.float32)
    if layer.cell.peepholes:
        rows[:count, : layer.hidden_size] = own["weight_peephole"]
    rows[count] = layer.cell.cell_clip or np.inf
    return rows.reshape(count + 1, -1, RUNG.lanes).transpose(1, 0, 2)


def _pad(matrix: Float32, rows: int, columns: int) -> Float32:
    out: Float32 = np.zeros((rows, columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out
