"""Gates of one vector of units: sums of a lane to its new state. Equations: `keepgate_kernels.reference`.

Arguments are addresses of float32 vectors: sums, the gates' pre-activations, one vector a gate; c, the cell
state, updated in place; before and h, the hidden state before and after, which may be the same; options,
vectors of peephole weights, then of the clip.
"""

from __future__ import annotations

from llvmlite import ir

from keepgate_kernels.cpu.activations import Fraction, sigmoid, tanh
from keepgate_kernels.cpu.simd import Emitter, Floats


def rnn_tanh(e: Emitter, sums: ir.Value, h: ir.Value) -> None:
    """h = tanh(sums)."""
    e.store(tanh(e, e.load(sums)).value, h)


def rnn_relu(e: Emitter, sums: ir.Value, h: ir.Value) -> None:
    """h = max(sums, 0)."""
    e.store(e.maximum(e.constant(0.0), e.load(sums)), h)


def _gated(e: Emitter, f: Fraction, c: Floats, i: Fraction, g: Fraction) -> Floats:
    """f c + i g over one denominator."""
    written = i.under * g.under
    kept = f.over * c * written
    return e.fma(i.over * g.over, f.under, kept) / (f.under * written)


def _complement(f: Fraction) -> Fraction:
    return Fraction(f.under - f.over, f.under)


def _coupled(e: Emitter, f: Fraction, c: Floats, g: Fraction) -> Floats:
    """f c + (1 - f) g over one denominator."""
    kept = f.over * c * g.under
    return e.fma(f.under - f.over, g.over, kept) / (f.under * g.under)


def _emit(e: Emitter, o: Floats, c: Floats, h: ir.Value) -> None:
    """h = sigmoid(o) tanh(c)."""
    gate, cell = sigmoid(e, o), tanh(e, c)
    e.store(gate.over * cell.over / (gate.under * cell.under), h)


def lstm(e: Emitter, sums: ir.Value, c: ir.Value, h: ir.Value) -> None:
    """Gates i, f, g, o."""
    i, f, g, o = (e.load(sums, gate) for gate in range(4))
    cell = _gated(e, sigmoid(e, f), e.load(c), sigmoid(e, i), tanh(e, g))
    e.store(cell, c)
    _emit(e, o, cell, h)


def lstm_with_options(e: Emitter, sums: ir.Value, c: ir.Value, h: ir.Value, options: ir.Value) -> None:
    """Gates i, f, g, o; options: peepholes of i, f, o, then the clip."""
    i, f, g, o = (e.load(sums, gate) for gate in range(4))
    to_i, to_f, to_o, clip = (e.load(options, row) for row in range(4))
    before = e.load(c)
    i, f = e.fma(to_i, before, i), e.fma(to_f, before, f)
    cell = e.clamp(_gated(e, sigmoid(e, f), before, sigmoid(e, i), tanh(e, g)), clip)
    e.store(cell, c)
    _emit(e, e.fma(to_o, cell, o), cell, h)


def cifg(e: Emitter, sums: ir.Value, c: ir.Value, h: ir.Value) -> None:
    """Gates f, g, o."""
    f, g, o = (e.load(sums, gate) for gate in range(3))
    cell = _coupled(e, sigmoid(e, f), e.load(c), tanh(e, g))
    e.store(cell, c)
    _emit(e, o, cell, h)


def cifg_with_options(e: Emitter, sums: ir.Value, c: ir.Value, h: ir.Value, options: ir.Value) -> None:
    """Gates f, g, o; options: peepholes of f, o, then the clip."""
    f, g, o = (e.load(sums, gate) for gate in range(3))
    to_f, to_o, clip = (e.load(options, row) for row in range(3))
    before = e.load(c)
    cell = e.clamp(_coupled(e, sigmoid(e, e.fma(to_f, before, f)), before, tanh(e, g)), clip)
    e.store(cell, c)
    _emit(e, e.fma(to_o, cell, o), cell, h)


def _update(e: Emitter, z: Floats, n: Fraction, before: ir.Value, h: ir.Value) -> None:
    """h = (1 - z) n + z h."""
    e.store(_coupled(e, sigmoid(e, z), e.load(before), n), h)


def gru(e: Emitter, from_x: ir.Value, sums: ir.Value, before: ir.Value, h: ir.Value) -> None:
    """Reset after the product. from_x: what x gives to n. Gates r, z, and what h gives to n."""
    r, z, from_h = (e.load(sums, gate) for gate in range(3))
    n = tanh(e, e.fma(sigmoid(e, r).value, from_h, e.load(from_x)))
    _update(e, z, n, before, h)


def reset(e: Emitter, r: ir.Value, before: ir.Value, out: ir.Value) -> None:
    """out = sigmoid(r) h, which the GRU with the reset before the product multiplies."""
    gate = sigmoid(e, e.load(r))
    e.store(gate.over * e.load(before) / gate.under, out)


def gru_reset_before(e: Emitter, z: ir.Value, n: ir.Value, before: ir.Value, h: ir.Value) -> None:
    """Once the product of r h has been added to n."""
    _update(e, e.load(z), tanh(e, e.load(n)), before, h)
