"""How much memory packed weights will take, told from the spec alone."""

from __future__ import annotations

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.dots import Dot
from keepgate_kernels.cpu.matmul import header_bytes
from keepgate_kernels.cpu.memory import LINE
from keepgate_kernels.cpu.packing import LEAD, linear_shape, slack_of_sums
from keepgate_kernels.cpu.simd import FLOAT_BYTES
from keepgate_kernels.spec import GATES, CellKind, LayerSpec, ModelSpec, TokenInput, peephole_gates
from keepgate_kernels.weights import MAX_TABLE_BYTES, check_precision, padded


def packed_bytes(spec: ModelSpec, precision: str) -> int:
    """Bytes that a network of this precision will hold as weights on this processor, `Network.weight_bytes`.

    Raises ValueError for a precision that does not exist.
    """
    check_precision(precision)
    dot = RUNG.dot(precision)
    total, inner = LEAD, spec.input_size
    for layer in spec.layers:
        total += _layer(layer, padded(inner), dot)
        inner = layer.output_size
    if isinstance(spec.input, TokenInput):
        vocabulary = spec.input.vocabulary_size
        table = vocabulary * _width(spec.layers[0]) * FLOAT_BYTES
        if table > MAX_TABLE_BYTES:
            table = vocabulary * padded(spec.input.embedding_size) * FLOAT_BYTES
        total += _lines(table)
    blocks, columns = linear_shape(spec.head.size)
    return total + _matrix(dot, padded(inner), blocks, columns) + _lines(blocks * columns * FLOAT_BYTES)


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _matrix(dot: Dot, inner: int, blocks: int, columns: int) -> int:
    return blocks * _lines(header_bytes(dot, columns) + inner * columns * dot.w_bits // 8)


def _shape(layer: LayerSpec, gates: int) -> tuple[int, int]:
    """Blocks and their columns of that many gates of a layer."""
    hidden = padded(layer.hidden_size)
    if layer.cell.kind in (CellKind.LSTM, CellKind.CIFG, CellKind.GRU):
        return hidden // RUNG.lanes, gates * RUNG.lanes
    return linear_shape(gates * hidden)


def _width(layer: LayerSpec) -> int:
    gates = 4 if layer.cell.kind is CellKind.GRU else len(GATES[layer.cell.kind])
    blocks, columns = _shape(layer, gates)
    return blocks * columns + slack_of_sums(layer.cell.kind)


def _layer(layer: LayerSpec, inner: int, dot: Dot) -> int:
    kind, cell = layer.cell.kind, layer.cell
    hidden, output = padded(layer.hidden_size), padded(layer.output_size)
    gates = len(GATES[kind])
    total = _lines(_width(layer) * FLOAT_BYTES) + _matrix(dot, inner, *_shape(layer, gates))
    if kind is CellKind.GRU_RESET_BEFORE:
        total += _matrix(dot, output, *_shape(layer, 2)) + _matrix(dot, output, *_shape(layer, 1))
    else:
        total += _matrix(dot, output, *_shape(layer, gates))
    if cell.projection:
        total += _matrix(dot, hidden, *linear_shape(output))
    if cell.peepholes or cell.cell_clip:
        total += _lines((len(peephole_gates(kind)) + 1) * hidden * FLOAT_BYTES)
    return total
