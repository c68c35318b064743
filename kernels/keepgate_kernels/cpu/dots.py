"""How one vector of outputs takes up a few products, by precision and instruction.

A `Dot` multiplies `group` consecutive k at a time: a 32-bit (or wider) piece of the row x, sent to all
lanes, with a vector of weights in which the `group` weights of one output lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from keepgate_kernels.cpu.simd import F32, I8, I16, I32, Emitter, Floats

Values = tuple[ir.Value, ...]


@dataclass(frozen=True)
class Dot:
    """One way to multiply.

    group: consecutive k of a step. x_bytes: bytes of a row of x a step. w_bits: bits of a weight.
    integer: whether x and the weights are quantised and sums are int32. zero_point: what is added to the
    integers of x, for instructions that want one factor unsigned. x_kind: how x is stored.
    load_x(emitter, address): what is sent to all lanes. load_w(emitter, address). add(emitter, sum, w, x).
    """

    name: str
    group: int
    x_kind: str
    w_bits: int
    integer: bool
    zero_point: int
    load_x: Callable[[Emitter, ir.Value], Values]
    load_w: Callable[[Emitter, ir.Value], Values]
    add: Callable[[Emitter, ir.Value, Values, Values], ir.Value]

    @property
    def x_bytes(self) -> int:
        """Bytes of one element of x."""
        return X_BYTES[self.x_kind]


X_BYTES = {"f32": 4, "bf16": 2, "u8": 1, "s8": 1, "s16": 2, "s32": 4}


def _floats_x(e: Emitter, address: ir.Value) -> Values:
    return (e.broadcast(address).value,)


def _floats_w(e: Emitter, address: ir.Value) -> Values:
    return (e.load(address).value,)


def _floats_add(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
    return e.fma(Floats(e, w[0]), Floats(e, x[0]), Floats(e, total)).value


FP32 = Dot("multiply-add", 1, "f32", 32, False, 0, _floats_x, _floats_w, _floats_add)


def _word_x(e: Emitter, address: ir.Value) -> Values:
    return (e.splat(e.load_as(I32, address)),)


def _word_w(e: Emitter, address: ir.Value) -> Values:
    return (e.load_as(e.vector(I32), address),)


def _bf16_dot(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
    # llvmlite has no bfloat type to call LLVM's intrinsic with.
    kind = ir.FunctionType(e.vector(F32), [e.vector(F32), e.vector(I32), e.vector(I32)])
    return e.builder.asm(kind, "vdpbf16ps $3, $2, $0", "=v,0,v,v", [total, w[0], x[0]], side_effect=False)


BF16_DOT = Dot("vdpbf16ps", 2, "bf16", 16, False, 0, _word_x, _word_w, _bf16_dot)


def _pair_x(e: Emitter, address: ir.Value) -> Values:
    return e.broadcast(address).value, e.broadcast(e.offset(address, 4)).value


def _pair_w(e: Emitter, address: ir.Value) -> Values:
    """A bfloat16 is the upper half of a float32: two of them are a shift and a mask away."""
    words = e.load_as(e.vector(I32), address)
    even = e.from_bits(e.builder.shl(words, e.integers(16)))
    odd = e.from_bits(e.builder.and_(words, e.integers(0xFFFF0000)))
    return even.value, odd.value


def _pair_add(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
    return _floats_add(e, _floats_add(e, total, w[:1], x[:1]), w[1:], x[1:])


BF16_WIDENED = Dot("widened to fp32", 2, "f32", 16, False, 0, _pair_x, _pair_w, _pair_add)


def _vnni(bits: int) -> Callable[[Emitter, ir.Value, Values, Values], ir.Value]:
    def add(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
        octets = e.vector(I8, 4 * e.lanes)
        unsigned, signed = e.builder.bitcast(x[0], octets), e.builder.bitcast(w[0], octets)
        return e.call(f"llvm.x86.avx512.vpdpbusd.{bits}", e.vector(I32), total, unsigned, signed)

    return add


INT8_VNNI_512 = Dot("vpdpbusd", 4, "u8", 8, True, 128, _word_x, _word_w, _vnni(512))
INT8_VNNI_256 = Dot("vpdpbusd", 4, "u8", 8, True, 128, _word_x, _word_w, _vnni(256))


def _octet_pairs_w(e: Emitter, address: ir.Value) -> Values:
    octets = e.load_as(e.vector(I8, 2 * e.lanes), address)
    return (e.builder.sext(octets, e.vector(I16, 2 * e.lanes)),)


def _multiply_pairs(name: str) -> Callable[[Emitter, ir.Value, Values, Values], ir.Value]:
    def add(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
        pairs = e.builder.bitcast(x[0], e.vector(I16, 2 * e.lanes))
        return e.builder.add(total, e.call(name, e.vector(I32), w[0], pairs))

    return add


INT8_PAIRS_512 = Dot(
    "vpmaddwd", 2, "s16", 8, True, 0, _word_x, _octet_pairs_w, _multiply_pairs("llvm.x86.avx512.pmaddw.d.512")
)
INT8_PAIRS_256 = Dot(
    "vpmaddwd", 2, "s16", 8, True, 0, _word_x, _octet_pairs_w, _multiply_pairs("llvm.x86.avx2.pmadd.wd")
)


def _sdot(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
    octets = e.vector(I8, 4 * e.lanes)
    factors = e.builder.bitcast(w[0], octets), e.builder.bitcast(x[0], octets)
    return e.call("llvm.aarch64.neon.sdot.v4i32.v16i8", e.vector(I32), total, *factors)


INT8_SDOT = Dot("sdot", 4, "s8", 8, True, 0, _word_x, _word_w, _sdot)


def _octets_w(e: Emitter, address: ir.Value) -> Values:
    return (e.builder.sext(e.load_as(e.vector(I8), address), e.vector(I32)),)


def _multiply_words(e: Emitter, total: ir.Value, w: Values, x: Values) -> ir.Value:
    return e.builder.add(total, e.builder.mul(w[0], x[0]))


INT8_WIDENED = Dot("widened to int32", 1, "s32", 8, True, 0, _word_x, _octets_w, _multiply_words)
