"""How one vector of outputs takes up a few products, by precision and instruction.

A `Dot` multiplies `group` consecutive k at a time: a 32-bit (or wider) piece of the row x, sent to all
lanes, with a vector of weights in which the `group` weights of one output lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from keepgate_kernels.cpu.simd import F32, I8, I16, I32, Emitter, Floats


@dataclass(frozen=True)
class Dot:
    """One way to multiply.

    group: consecutive k of a step. parts: instructions that take up a step's products, for one vector of
    outputs. x_kind: how a row of x is stored. w_bits: bits of a weight. integer: whether x and the weights
    are quantised and sums are int32. zero_point: what is added to the integers of x, for instructions that
    want one factor unsigned.
    load_x(emitter, address, part): what of x is sent to all lanes. load_w(emitter, address, part).
    add(emitter, sum, w, x).
    """

    name: str
    group: int
    x_kind: str
    w_bits: int
    load_x: Callable[[Emitter, ir.Value, int], ir.Value]
    load_w: Callable[[Emitter, ir.Value, int], ir.Value]
    add: Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]
    parts: int = 1
    integer: bool = False
    zero_point: int = 0

    @property
    def x_bytes(self) -> int:
        """Bytes of one element of x."""
        return X_BYTES[self.x_kind]


X_BYTES = {"f32": 4, "bf16": 2, "u8": 1, "s8": 1, "s16": 2, "s32": 4}


def _float_x(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    return e.broadcast(e.offset(address, 4 * part)).value


def _float_w(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    return e.load(address).value


def _float_add(e: Emitter, total: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    return e.fma(Floats(e, w), Floats(e, x), Floats(e, total)).value


FP32 = Dot("multiply-add", 1, "f32", 32, _float_x, _float_w, _float_add)


def _word_x(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    return e.splat(e.load_as(I32, address))


def _word_w(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    return e.load_as(e.vector(I32), address)


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has none
    """LLVM's bfloat."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _bf16_dot(e: Emitter, total: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    halves = e.vector(_BFloat(), 2 * e.lanes)
    factors = e.builder.bitcast(w, halves), e.builder.bitcast(x, halves)
    return e.call("llvm.x86.avx512bf16.dpbf16ps.512", e.vector(F32), total, *factors)


BF16_DOT = Dot("vdpbf16ps", 2, "bf16", 16, _word_x, _word_w, _bf16_dot)


def _half_w(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    """A bfloat16 is the upper half of a float32. The odd ones are the upper halves of the words; the even
    ones too, two bytes earlier, for which the bytes in front of the weights must be there to read."""
    words = e.load_as(e.vector(I32), e.offset(address, 2 * part - 2))
    return e.from_bits(e.builder.and_(words, e.integers(0xFFFF0000))).value


BF16_WIDENED = Dot("widened to fp32", 2, "f32", 16, _float_x, _half_w, _float_add, parts=2)


def _vnni(bits: int) -> Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]:
    def add(e: Emitter, total: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        octets = e.vector(I8, 4 * e.lanes)
        unsigned, signed = e.builder.bitcast(x, octets), e.builder.bitcast(w, octets)
        return e.call(f"llvm.x86.avx512.vpdpbusd.{bits}", e.vector(I32), total, unsigned, signed)

    return add


def _int8(name: str, group: int, x_kind: str, load_w: Any, add: Any, zero_point: int = 0) -> Dot:
    return Dot(name, group, x_kind, 8, _word_x, load_w, add, integer=True, zero_point=zero_point)


INT8_VNNI_512 = _int8("vpdpbusd", 4, "u8", _word_w, _vnni(512), zero_point=128)
INT8_VNNI_256 = _int8("vpdpbusd", 4, "u8", _word_w, _vnni(256), zero_point=128)


def _octet_pairs_w(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    octets = e.load_as(e.vector(I8, 2 * e.lanes), address)
    return e.builder.sext(octets, e.vector(I16, 2 * e.lanes))


def _multiply_pairs(name: str) -> Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]:
    def add(e: Emitter, total: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        pairs = e.builder.bitcast(x, e.vector(I16, 2 * e.lanes))
        return e.builder.add(total, e.call(name, e.vector(I32), w, pairs))

    return add


INT8_PAIRS_512 = _int8("vpmaddwd", 2, "s16", _octet_pairs_w, _multiply_pairs("llvm.x86.avx512.pmaddw.d.512"))
INT8_PAIRS_256 = _int8("vpmaddwd", 2, "s16", _octet_pairs_w, _multiply_pairs("llvm.x86.avx2.pmadd.wd"))


def _sdot(e: Emitter, total: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    octets = e.vector(I8, 4 * e.lanes)
    factors = e.builder.bitcast(w, octets), e.builder.bitcast(x, octets)
    return e.call("llvm.aarch64.neon.sdot.v4i32.v16i8", e.vector(I32), total, *factors)


INT8_SDOT = _int8("sdot", 4, "s8", _word_w, _sdot)


def _octets_w(e: Emitter, address: ir.Value, part: int) -> ir.Value:
    return e.builder.sext(e.load_as(e.vector(I8), address), e.vector(I32))


def _multiply_words(e: Emitter, total: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    return e.builder.add(total, e.builder.mul(w, x))


INT8_WIDENED = _int8("widened to int32", 1, "s32", _octets_w, _multiply_words)
