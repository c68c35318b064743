"""Rows of float32 numbers to rows as products read them: as they are, as bfloat16, or quantised.

A converted row starts with its scale, a float32, in ROW_HEADER bytes. Integers are round(x / scale), from
-127 to 127, plus the zero point. A row whose numbers are known to lie in [-1, 1] has the scale 1 / 127
(`bounded`); for any other the scale is its largest magnitude / 127.
"""

from __future__ import annotations

from llvmlite import ir

from keepgate_kernels.cpu.dots import X_BYTES, Dot
from keepgate_kernels.cpu.matmul import ROW_HEADER
from keepgate_kernels.cpu.simd import F32, I8, I16, I32, I64, Body, Emitter, Floats

LEVELS = 127.0
MAGIC = 12582912.0
"""1.5 * 2**23: added to a small float32, leaves its nearest integer in the low bits of the mantissa."""
MAGIC_BITS = 0x4B400000
LEAST = 1e-30
"""Scale of a row of zeros, times 127: any positive number whose reciprocal is finite."""

INTEGERS = {"u8": I8, "s8": I8, "s16": I16, "s32": I32}


def convert(dot: Dot, bounded: bool) -> Body:
    """Code that turns `count` numbers (a multiple of 16) at `source` into a row at `target`."""

    def as_it_is(e: Emitter, x: Floats, address: ir.Value) -> None:
        e.store(x, address)

    def as_bf16(e: Emitter, x: Floats, address: ir.Value) -> None:
        """To nearest, ties to even."""
        b, bits = e.builder, e.bits(x)
        odd = b.and_(b.lshr(bits, e.integers(16)), e.integers(1))
        rounded = b.lshr(b.add(b.add(bits, e.integers(0x7FFF)), odd), e.integers(16))
        e.store_raw(b.trunc(rounded, e.vector(I16)), address)

    def quantised(e: Emitter, x: Floats, inverse: Floats, address: ir.Value) -> None:
        levels = e.clamp(x * inverse, e.constant(LEVELS)) + e.constant(MAGIC)
        zero = MAGIC_BITS - dot.zero_point
        integers = e.builder.sub(e.bits(levels), e.integers(zero))
        if INTEGERS[dot.x_kind] is not I32:
            integers = e.builder.trunc(integers, e.vector(INTEGERS[dot.x_kind]))
        e.store_raw(integers, address)

    def body(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
        b = e.builder
        inverse = None
        if dot.integer:
            scale = e.constant(1.0 / LEVELS)
            inverse = e.constant(LEVELS)
            if not bounded:
                largest = _largest(e, source, count)
                scale = largest * scale
                inverse = inverse / largest
            e.store_raw(b.extract_element(scale.value, I32(0)), target)
        first = e.offset(target, ROW_HEADER)

        def iteration(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            x = e.load(b.add(source, b.mul(index, I64(4))))
            address = b.add(first, b.mul(index, I64(X_BYTES[dot.x_kind])))
            if inverse is not None:
                quantised(e, x, inverse, address)
            elif dot.x_kind == "bf16":
                as_bf16(e, x, address)
            else:
                as_it_is(e, x, address)
            return []

        e.loop_over(count, [], iteration)

    body.__name__ = f"convert_{'bounded' if bounded else 'any'}"
    return body


def _largest(e: Emitter, source: ir.Value, count: ir.Value) -> Floats:
    """Largest magnitude, at least LEAST, in every lane."""
    b = e.builder

    def iteration(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        x = e.absolute(e.load(b.add(source, b.mul(index, I64(4)))))
        return [e.maximum(Floats(e, values[0]), x).value]

    first, *others = e.loop_over(count, [e.constant(LEAST).value], iteration)
    for other in others:
        first = e.maximum(Floats(e, first), Floats(e, other)).value
    largest = e.call(f"llvm.vector.reduce.fmax.v{e.lanes}f32", F32, first)
    return Floats(e, e.splat(largest))


def copy(e: Emitter, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
    """Copy `count` float32 numbers, a multiple of 16."""

    def iteration(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        place = e.builder.mul(index, I64(4))
        e.store(e.load(e.builder.add(source, place)), e.builder.add(target, place))
        return []

    e.loop_over(count, [], iteration)


def is_finite(e: Emitter, source: ir.Value, count: ir.Value) -> ir.Value:
    """1 if `count` numbers, a multiple of 16, are all finite, else 0."""
    b = e.builder
    zero = e.constant(0.0)

    def iteration(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        x = e.load(b.add(source, b.mul(index, I64(4))))
        return [e.fma(x, zero, Floats(e, values[0])).value]  # infinity times zero is NaN

    first, *others = e.loop_over(count, [zero.value], iteration)
    for other in others:
        first = b.fadd(first, other)
    ordered = b.fcmp_ordered("==", first, zero.value)
    return b.zext(e.call(f"llvm.vector.reduce.and.v{e.lanes}i1", ir.IntType(1), ordered), I64)
