"""Canonical tensors to the layout that the kernels read.

All packed weights of a model lie in one float32 array; a plan, an int64 table, says where. So one compiled
kernel serves every model, whatever its cells and sizes. Widths are padded to whole vectors with zeros:
padded units have zero weights and stay zero in every cell.

Layer 0 of a token model needs no input product: `embedding @ weight_ih + bias` is a table of one row a
token ("folding"), unless that table would be larger than `MAX_TABLE_BYTES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.matmul import BLOCK, UNROLL
from keepgate_kernels.spec import GATES, CellKind, FeatureInput, LayerSpec, ModelSpec, layer_tensors
from keepgate_kernels.spec_json import dump_spec

Float32 = NDArray[np.float32]

VECTOR = 16
"""float32 numbers in a 512-bit vector; every padded width is a multiple."""

MAX_TABLE_BYTES = 64 << 20

# Rows of the plan: the input, then each layer, then the head. Columns of the input's row:
INPUT_KIND, INPUT_SIZE, INPUT_WIDTH, INPUT_OFFSET = range(4)
FOLDED, EMBEDDED, FEATURES = range(3)
# Columns of a layer's row. X, H and SECOND are packed products: from the layer's input, from its own h, and
# a third one (the reset gate's product in GRU_RESET_BEFORE, the projection in LSTM and CIFG).
(
    KIND,
    HIDDEN,
    OUTPUT,
    INNER,
    WIDTH,
    X_OFFSET,
    X_COLUMNS,
    H_OFFSET,
    H_COLUMNS,
    H_FIRST,
    BIAS,
    SECOND,
    PEEPHOLE,
    CLIP,
) = range(14)
ABSENT = -1
# Columns of the head's row:
HEAD_SIZE, HEAD_WIDTH, HEAD_INNER, HEAD_OFFSET, HEAD_BIAS = range(5)
COLUMNS = CLIP + 1

RNN_TANH, RNN_RELU, LSTM, CIFG, GRU, GRU_RESET_BEFORE = range(6)
KIND_CODES = {
    CellKind.RNN_TANH: RNN_TANH,
    CellKind.RNN_RELU: RNN_RELU,
    CellKind.LSTM: LSTM,
    CellKind.CIFG: CIFG,
    CellKind.GRU: GRU,
    CellKind.GRU_RESET_BEFORE: GRU_RESET_BEFORE,
}


class WeightsError(ValueError):
    """The tensors do not fit the spec; the text names the tensor, what came and what was expected."""


class Weights(NamedTuple):
    """Packed weights, read-only: flat float32 [*], plan int64 [L + 2, COLUMNS]."""

    flat: Float32
    plan: NDArray[np.int64]


def padded(width: int) -> int:
    """The next multiple of VECTOR."""
    return -(-width // VECTOR) * VECTOR


def check_tensors(spec: ModelSpec, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise WeightsError unless names, shapes and dtypes are those of the spec and all values finite."""
    expected = spec.tensors()
    for name in sorted(expected.keys() - tensors.keys()):
        raise WeightsError(f"tensor {name}: missing, expected float32 {list(expected[name])}")
    for name in sorted(tensors.keys() - expected.keys()):
        raise WeightsError(f"tensor {name}: not expected by the spec")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise WeightsError(
                f"tensor {name}: got {tensor.dtype} {list(tensor.shape)}, expected float32 {list(shape)}"
            )
        if not np.isfinite(tensor).all():
            raise WeightsError(f"tensor {name}: holds NaN or infinity, expected finite values")


def fingerprint(spec: ModelSpec, tensors: Mapping[str, Float32]) -> str:
    """SHA-256, in hexadecimal, of the spec and all weights."""
    digest = hashlib.sha256(dump_spec(spec).encode())
    for name in spec.tensors():
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(tensors[name], "<f4").data)
    return digest.hexdigest()


def pack_matrix(matrix: Float32) -> Float32:
    """[K, N] (K a multiple of UNROLL, N of VECTOR) to the stream that `cpu.matmul` reads."""
    inner, columns = matrix.shape
    blocks = []
    for start in range(0, columns, BLOCK):
        block = matrix[:, start : start + BLOCK]
        blocks.append(block.reshape(inner // UNROLL, UNROLL, block.shape[1]).ravel())
    return np.concatenate(blocks)


class _Packer:
    """Appends arrays to the flat weights and remembers where."""

    def __init__(self) -> None:
        self.pieces: list[Float32] = []
        self.length = 0

    def add(self, values: NDArray[np.floating]) -> int:
        piece = np.ascontiguousarray(values, np.float32).ravel()
        offset = self.length
        self.pieces.append(piece)
        self.length += piece.size
        return offset


def pack(spec: ModelSpec, tensors: Mapping[str, Float32]) -> Weights:
    """Lay the weights out for the CPU kernels. The tensors have passed `check_tensors`."""
    packer = _Packer()
    plan = np.full((len(spec.layers) + 2, COLUMNS), ABSENT, np.int64)
    width = spec.input_size
    for index, layer in enumerate(spec.layers):
        _pack_layer(packer, plan[1 + index], layer, layer_tensors(tensors, index))
        if index == 0:
            _pack_input(packer, plan, spec, tensors)
        width = layer.output_size
    head = plan[-1]
    head[[HEAD_SIZE, HEAD_WIDTH, HEAD_INNER]] = (
        spec.head.size,
        padded(spec.head.size),
        padded(width),
    )
    matrix = _pad(tensors["head.weight"].T, padded(width), padded(spec.head.size))
    head[HEAD_OFFSET] = packer.add(pack_matrix(matrix))
    head[HEAD_BIAS] = packer.add(_pad_row(tensors["head.bias"], padded(spec.head.size)))
    return Weights(np.concatenate(packer.pieces), plan)


def _pack_input(
    packer: _Packer, plan: NDArray[np.int64], spec: ModelSpec, tensors: Mapping[str, Float32]
) -> None:
    row, first = plan[0], plan[1]
    row[[INPUT_SIZE, INPUT_WIDTH]] = spec.input_size, padded(spec.input_size)
    if isinstance(spec.input, FeatureInput):
        row[INPUT_KIND] = FEATURES
        return
    embedding = tensors["embedding.weight"]
    if spec.input.vocabulary_size * int(first[WIDTH]) * 4 > MAX_TABLE_BYTES:
        row[INPUT_KIND] = EMBEDDED
        row[INPUT_OFFSET] = packer.add(_pad(embedding, len(embedding), padded(spec.input_size)))
        return
    layer = spec.layers[0]
    table = np.tile(_bias(layer, layer_tensors(tensors, 0)).astype(np.float64), (len(embedding), 1))
    x_weights = _columns(layer, tensors["layers.0.weight_ih"], _x_order(layer.cell.kind))
    columns = x_weights.shape[1]
    table[:, :columns] += embedding.astype(np.float64) @ x_weights.astype(np.float64)
    row[INPUT_KIND] = FOLDED
    row[INPUT_OFFSET] = packer.add(table)
    first[[X_OFFSET, X_COLUMNS]] = ABSENT


def _x_order(kind: CellKind) -> tuple[str, ...]:
    """Gate blocks that the input product fills, from column 0 on."""
    return ("n", "r", "z") if kind is CellKind.GRU else GATES[kind]


def _h_order(kind: CellKind) -> tuple[str, ...]:
    """Gate blocks that the recurrent product fills, from column H_FIRST on."""
    return ("r", "z") if kind is CellKind.GRU_RESET_BEFORE else GATES[kind]


def _bias(layer: LayerSpec, own: Mapping[str, Float32]) -> Float32:
    """What the sums start from [WIDTH]. GRU keeps the parts of n apart: blocks n from x, r, z, n from h."""
    kind = layer.cell.kind
    size = layer.hidden_size
    ih = dict(zip(GATES[kind], own["bias_ih"].reshape(-1, size), strict=True))
    hh = dict(zip(GATES[kind], own["bias_hh"].reshape(-1, size), strict=True))
    if kind is CellKind.GRU:
        rows = [ih["n"], ih["r"] + hh["r"], ih["z"] + hh["z"], hh["n"]]
    else:
        rows = [ih[gate] + hh[gate] for gate in GATES[kind]]
    return np.concatenate([_pad_row(row, padded(size)) for row in rows])


def _columns(layer: LayerSpec, rows: Float32, order: tuple[str, ...]) -> Float32:
    """Canonical [G*H, K] to [K, blocks * padded H], the gates in `order`, unpacked."""
    size = layer.hidden_size
    by_gate = dict(zip(GATES[layer.cell.kind], rows.reshape(-1, size, rows.shape[1]), strict=True))
    return np.concatenate([_pad(by_gate[g].T, rows.shape[1], padded(size)) for g in order], axis=1)


def _pack_layer(
    packer: _Packer, row: NDArray[np.int64], layer: LayerSpec, own: Mapping[str, Float32]
) -> None:
    kind = layer.cell.kind
    hidden, output = padded(layer.hidden_size), padded(layer.output_size)
    inner = padded(own["weight_ih"].shape[1])
    bias = _bias(layer, own)
    row[[KIND, HIDDEN, OUTPUT, INNER, WIDTH]] = KIND_CODES[kind], hidden, output, inner, bias.size
    row[BIAS] = packer.add(bias)

    x_weights = _columns(layer, own["weight_ih"], _x_order(kind))
    row[X_OFFSET] = packer.add(pack_matrix(_pad(x_weights, inner, x_weights.shape[1])))
    row[X_COLUMNS] = x_weights.shape[1]

    h_weights = _columns(layer, own["weight_hh"], _h_order(kind))
    row[H_OFFSET] = packer.add(pack_matrix(_pad(h_weights, output, h_weights.shape[1])))
    row[H_COLUMNS] = h_weights.shape[1]
    row[H_FIRST] = hidden if kind is CellKind.GRU else 0

    if kind is CellKind.GRU_RESET_BEFORE:
        second = _columns(layer, own["weight_hh"], ("n",))
        row[SECOND] = packer.add(pack_matrix(_pad(second, output, hidden)))
    if layer.cell.projection:
        row[SECOND] = packer.add(pack_matrix(_pad(own["weight_projection"].T, hidden, output)))
    if layer.cell.peepholes:
        row[PEEPHOLE] = packer.add(_pad(own["weight_peephole"], len(own["weight_peephole"]), hidden))
    if layer.cell.cell_clip:
        row[CLIP] = packer.add(np.array([layer.cell.cell_clip]))


def _pad(matrix: Float32, rows: int, columns: int) -> Float32:
    out: Float32 = np.zeros((rows, columns), np.float32)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def _pad_row(row: Float32, width: int) -> Float32:
    padded_row: Float32 = _pad(row[None, :], 1, width)[0]
    return padded_row
