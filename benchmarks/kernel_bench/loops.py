"""Loops that measure a limit of the processor, built from LLVM vectors so that their width is certain.

`STREAMS` read a buffer; `PEAKS` repeat the instruction that a product is made of, on registers alone. Widths
and instructions are chosen from the features that LLVM finds, once at import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

FEATURES = llvmlite.binding.get_host_cpu_features()
X86 = bool(FEATURES.get("sse2"))
VECTOR_BYTES = 64 if FEATURES.get("avx512f") else 32 if FEATURES.get("avx2") else 16
"""Width of the registers used."""

ACCUMULATORS = 12
"""Chains of dependent instructions: two ports with a latency of 4 or 5 cycles need 10 to be kept busy, and 12
fit in the 16 registers of AVX2 beside the operands."""

UNROLL = 2
"""Operations on every accumulator an iteration."""

LINE = 64
"""Bytes of a cache line."""
STREAM_ACCUMULATORS = 8
STREAM_BLOCK = STREAM_ACCUMULATORS * LINE
"""Bytes that an iteration reads of every stream."""

Loop = Callable[..., object]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
POINTER = I8.as_pointer()


def _vector(element: ir.Type, bytes_each: int) -> ir.VectorType:
    return ir.VectorType(element, VECTOR_BYTES // bytes_each)


INTS = _vector(I32, 4)
FLOATS = _vector(ir.FloatType(), 4)

Operation = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""(builder, accumulator, a, b) to the new accumulator; all of them vectors of i32, whatever they hold."""


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


def _fma(builder: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    operands = [builder.bitcast(value, FLOATS) for value in (a, b, total)]
    name = f"llvm.fma.v{FLOATS.count}f32"
    return builder.bitcast(_call(builder, name, FLOATS, operands), INTS)


def _vnni(builder: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    octets = _vector(I8, 1)
    operands = [total, builder.bitcast(a, octets), builder.bitcast(b, octets)]
    return _call(builder, f"llvm.x86.avx512.vpdpbusd.{8 * VECTOR_BYTES}", INTS, operands)


def _sdot(builder: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    octets = _vector(I8, 1)
    operands = [total, builder.bitcast(a, octets), builder.bitcast(b, octets)]
    return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", INTS, operands)


def _multiply_pairs(builder: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """AVX2 without VNNI: vpmaddubsw, vpmaddwd, vpaddd.

    The first reads the accumulator instead of a, or LLVM would move it out of the loop.
    """
    octets, words = _vector(I8, 1), _vector(I16, 2)
    suffix = {64: "avx512.pmaddubs.w.512", 32: "avx2.pmadd.ub.sw", 16: "ssse3.pmadd.ub.sw.128"}[VECTOR_BYTES]
    pairs = _call(
        builder,
        f"llvm.x86.{suffix}",
        words,
        [builder.bitcast(total, octets), builder.bitcast(b, octets)],
    )
    suffix = {64: "avx512.pmaddw.d.512", 32: "avx2.pmadd.wd", 16: "sse2.pmadd.wd"}[VECTOR_BYTES]
    return builder.add(total, _call(builder, f"llvm.x86.{suffix}", INTS, [pairs, builder.bitcast(a, words)]))


def _bf16(builder: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    # llvmlite has no bfloat type; LLVM upgrades this older signature of the intrinsic when it parses it.
    name = f"llvm.x86.avx512bf16.dpbf16ps.{8 * VECTOR_BYTES}"
    return builder.bitcast(_call(builder, name, FLOATS, [builder.bitcast(total, FLOATS), a, b]), INTS)


def _combined(builder: ir.IRBuilder, totals: list[ir.Value]) -> ir.Value:
    """One 64-bit number that depends on every lane of every accumulator, so that none can be left out."""
    value = totals[0]
    for total in totals[1:]:
        value = builder.xor(value, total)
    out: ir.Value = ir.Constant(I64, 0)
    for index in range(INTS.count):
        lane = builder.extract_element(value, ir.Constant(I32, index))
        out = builder.add(out, builder.zext(lane, I64))
    return out


def _load(builder: ir.IRBuilder, base: ir.Value, offset: ir.Value | int) -> ir.Value:
    place = ir.Constant(I64, offset) if isinstance(offset, int) else offset
    address = builder.gep(base, [place], source_etype=I8)
    return builder.load(address, typ=INTS, align=4)


def _register_loop(operation: Operation) -> Any:
    """A jitted function (address, iterations): UNROLL * ACCUMULATORS operations an iteration on registers.

    address: of OPERAND_BYTES of ordinary numbers, the operands and where sums start.
    """

    @intrinsic
    def loop(typing_context: Any, address: Any, iterations: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            base = builder.inttoptr(arguments[0], POINTER)
            a, b = (_load(builder, base, VECTOR_BYTES * index) for index in range(2))
            totals = [
                cgutils.alloca_once_value(builder, _load(builder, base, VECTOR_BYTES * (2 + index)))
                for index in range(ACCUMULATORS)
            ]
            with cgutils.for_range(builder, arguments[1]):
                for total in totals * UNROLL:
                    builder.store(operation(builder, builder.load(total, typ=INTS), a, b), total)
            return _combined(builder, [builder.load(total, typ=INTS) for total in totals])

        return types.int64(types.uintp, types.intp), generate

    @numba.njit
    def run(address, iterations):
        return loop(address, iterations)

    return run


def _stream_loop(streams: int, ahead: int) -> Any:
    """A jitted function (address, size, repeats) that reads `size` bytes `repeats` times.

    streams: consecutive parts of the buffer that are read side by side; ahead: bytes by which a prefetch runs
    in front, 0 for none.
    """

    @intrinsic
    def loop(typing_context: Any, address: Any, size: Any, repeats: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            base = builder.inttoptr(arguments[0], POINTER)
            part = builder.udiv(arguments[1], ir.Constant(I64, streams))
            blocks = builder.udiv(part, ir.Constant(I64, STREAM_BLOCK))
            totals = [
                cgutils.alloca_once_value(builder, ir.Constant(INTS, None))
                for _ in range(STREAM_ACCUMULATORS)
            ]
            with cgutils.for_range(builder, arguments[2]), cgutils.for_range(builder, blocks) as inner:
                start = builder.mul(inner.index, ir.Constant(I64, STREAM_BLOCK))
                for offset in range(0, STREAM_BLOCK, VECTOR_BYTES):
                    for stream in range(streams):
                        place = builder.add(start, builder.mul(part, ir.Constant(I64, stream)))
                        place = builder.add(place, ir.Constant(I64, offset))
                        if ahead and offset % LINE == 0:
                            _prefetch(builder, base, builder.add(place, ir.Constant(I64, ahead)))
                        total = totals[offset // VECTOR_BYTES % STREAM_ACCUMULATORS]
                        value = builder.add(builder.load(total, typ=INTS), _load(builder, base, place))
                        builder.store(value, total)
            return _combined(builder, [builder.load(total, typ=INTS) for total in totals])

        return types.int64(types.uintp, types.intp, types.intp), generate

    @numba.njit
    def run(address, size, repeats):
        return loop(address, size, repeats)

    return run


def _prefetch(builder: ir.IRBuilder, base: ir.Value, offset: ir.Value) -> None:
    address = builder.gep(base, [offset], source_etype=I8)
    read, keep, data = (ir.Constant(I32, value) for value in (0, 3, 1))
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), [address, read, keep, data])


def _int8() -> tuple[Operation, str] | None:
    """The dot product of this processor's widest vectors, and what it is called."""
    if not X86:
        return (_sdot, "sdot") if FEATURES.get("dotprod") else None
    if FEATURES.get("avxvnni") or (FEATURES.get("avx512vnni") and FEATURES.get("avx512vl")):
        return _vnni, "vpdpbusd"
    return (_multiply_pairs, "vpmaddubsw, vpmaddwd, vpaddd") if FEATURES.get("avx2") else None


def _instructions() -> dict[str, tuple[Operation, str]]:
    """By precision, what a product is made of on this processor."""
    chosen = {
        "fp32": (_fma, "fused multiply-add") if not X86 or FEATURES.get("fma") else None,
        "bf16": (_bf16, "vdpbf16ps") if FEATURES.get("avx512bf16") else None,
        "int8": _int8(),
    }
    return {precision: found for precision, found in chosen.items() if found is not None}


INSTRUCTIONS = {precision: name for precision, (_, name) in _instructions().items()}
"""The instruction whose peak is measured; a precision is missing where the processor has none."""

PEAKS: dict[str, Loop] = {p: _register_loop(operation) for p, (operation, _) in _instructions().items()}
"""(address, iterations): `peak_operations` a precision and iteration."""

OPERAND_BYTES = (2 + ACCUMULATORS) * VECTOR_BYTES


def peak_operations(precision: str) -> int:
    """Operations of one iteration of a register loop, two for each multiply-add."""
    lanes = VECTOR_BYTES // {"fp32": 4, "bf16": 2, "int8": 1}[precision]
    return 2 * lanes * UNROLL * ACCUMULATORS


STREAMS: dict[str, Loop] = {
    "one stream": _stream_loop(1, 0),
    "two streams": _stream_loop(2, 0),
    "one stream, prefetched": _stream_loop(1, 2048),
    "four streams, prefetched": _stream_loop(4, 2048),
}
"""(address, bytes, repeats); bytes a multiple of four blocks of `STREAM_BLOCK`."""
