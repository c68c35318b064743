"""Instructions that Numba has no name for, as LLVM code and inline PTX (PTX ISA 8, chapter 9).

Shared memory is an array of uint32, and addresses in it are bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_SHARED = 3


def _asm(builder: Any, result: Any, code: str, constraints: str, arguments: list[Any], effect: bool) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(ir.InlineAsm(kind, code, constraints, side_effect=effect), arguments)


def _element(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


WORD = 4
"""What an address in shared memory grows by from one word to the next."""
SHARED_ALIGNMENT = 128
"""Of dynamic shared memory: copies want 16 bytes, and pieces of fp32 change places within 64."""


@intrinsic
def shared_address(typing, shared, at):
    """Where `copy16` and `load4` take word `at` of shared memory to lie."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        base = builder.ptrtoint(builder.addrspacecast(data, _I32.as_pointer(_SHARED)), _I32)
        return builder.add(base, builder.mul(args[1], ir.Constant(_I32, WORD)))

    return types.int32(shared, types.int32), generate


@intrinsic
def address_of(typing, source, at):
    """Where `copy16` and `moved_on` take element `at` of an array to lie."""

    def generate(context, builder, signature, args):
        return builder.ptrtoint(_element(context, builder, signature.args[0], args[0], args[1]), _I64)

    return types.int64(source, types.int64), generate


@intrinsic
def moved_on(typing, source, address, elements):
    """The address so many elements on."""
    size = source.dtype.bitwidth // 8

    def generate(context, builder, signature, args):
        return builder.add(args[1], builder.mul(args[2], ir.Constant(_I64, size)))

    return types.int64(source, types.int64, types.int64), generate


@intrinsic
def plus_product(typing, base, a, b):
    """base + a b, of a and b the low 32 bits, as numbers without a sign: one instruction, and not three."""

    def generate(context, builder, signature, args):
        low = [builder.trunc(factor, _I32) for factor in args[1:]]
        return _asm(builder, _I64, "mad.wide.u32 $0, $1, $2, $3;", "=l,r,r,l", [*low, args[0]], False)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def copy16(typing, shared, to, source, address, room, taken):
    """Start copying 16 bytes at an address in `source` to one in `shared`; zeros unless room > taken."""

    def generate(context, builder, signature, args):
        code = (
            "{ .reg .pred none; setp.le.s32 none, $2, $3; cp.async.cg.shared.global [$0], [$1], 16, none; }"
        )
        _asm(builder, ir.VoidType(), code, "r,l,r,r,~{memory}", [args[1], args[3], args[4], args[5]], True)
        return context.get_dummy_value()

    return types.void(shared, types.int32, source, types.int64, types.int32, types.int32), generate


@intrinsic
def commit(typing):
    """The copies since the last commit are a group."""

    def generate(context, builder, signature, args):
        _asm(builder, ir.VoidType(), "cp.async.commit_group;", "~{memory}", [], True)
        return context.get_dummy_value()

    return types.void(), generate


def waiting(groups: int) -> Any:
    """A function that waits until at most that many of the thread's own groups are on their way."""

    @intrinsic
    def wait(typing):
        def generate(context, builder, signature, args):
            _asm(builder, ir.VoidType(), f"cp.async.wait_group {groups};", "~{memory}", [], True)
            return context.get_dummy_value()

        return types.void(), generate

    return wait


@intrinsic
def load4(typing, shared, address):
    """The four words from an address in shared memory on, which is a multiple of 16 bytes."""
    result = types.UniTuple(types.uint32, 4)

    def generate(context, builder, signature, args):
        out = ir.LiteralStructType([_I32] * 4)
        code = "ld.shared.v4.u32 {$0, $1, $2, $3}, [$4];"
        words = _asm(builder, out, code, "=r,=r,=r,=r,r", [args[1]], True)
        parts = [builder.extract_value(words, index) for index in range(4)]
        return context.make_tuple(builder, result, parts)

    return result(shared, types.int32), generate


@intrinsic
def load1(typing, shared, address):
    """The float32 at an address in shared memory."""

    def generate(context, builder, signature, args):
        return _asm(builder, _F32, "ld.shared.f32 $0, [$1];", "=f,r,~{memory}", [args[1]], True)

    return types.float32(shared, types.int32), generate


@intrinsic
def load2(typing, shared, address):
    """The two float32 from an address in shared memory on, which is a multiple of 8 bytes."""
    result = types.UniTuple(types.float32, 2)

    def generate(context, builder, signature, args):
        out = ir.LiteralStructType([_F32] * 2)
        pair = _asm(builder, out, "ld.shared.v2.f32 {$0, $1}, [$2];", "=f,=f,r,~{memory}", [args[1]], True)
        parts = [builder.extract_value(pair, index) for index in range(2)]
        return context.make_tuple(builder, result, parts)

    return result(shared, types.int32), generate


@intrinsic
def store2(typing, shared, address, first, second):
    """Set the two float32 from an address in shared memory on."""

    def generate(context, builder, signature, args):
        code = "st.shared.v2.f32 [$0], {$1, $2};"
        _asm(builder, ir.VoidType(), code, "r,f,f,~{memory}", [*args[1:]], True)
        return context.get_dummy_value()

    return types.void(shared, types.int32, types.float32, types.float32), generate


@intrinsic
def as_float(typing, word):
    """The float32 of these bits."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], _F32)

    return types.float32(types.uint32), generate


@intrinsic
def as_word(typing, number):
    """The bits of a float32."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], _I32)

    return types.uint32(types.float32), generate


@intrinsic
def rounded_product(typing, a, b):
    """The product of two float64 numbers: rounded, also where a sum follows that it could be fused with."""

    def generate(context, builder, signature, args):
        return _asm(builder, _F64, "mul.rn.f64 $0, $1, $2;", "=d,d,d", list(args), False)

    return types.float64(types.float64, types.float64), generate


@intrinsic
def add_released(typing, array, at, value):
    """Add to an int32 of global memory.

    Who sees that with `load_acquired` sees all that this thread wrote before, and what others wrote before it
    met them at a barrier (PTX ISA 8, chapter 8: causality order).
    """

    def generate(context, builder, signature, args):
        pointer = builder.ptrtoint(_element(context, builder, signature.args[0], args[0], args[1]), _I64)
        code = "red.release.gpu.global.add.u32 [$0], $1;"
        _asm(builder, ir.VoidType(), code, "l,r,~{memory}", [pointer, args[2]], True)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int32), generate


@intrinsic
def load_acquired(typing, array, at):
    """An int32 of global memory that `add_released` adds to."""

    def generate(context, builder, signature, args):
        pointer = builder.ptrtoint(_element(context, builder, signature.args[0], args[0], args[1]), _I64)
        return _asm(builder, _I32, "ld.acquire.gpu.global.s32 $0, [$1];", "=r,l,~{memory}", [pointer], True)

    return types.int32(array, types.int64), generate


@intrinsic
def cooperative(typing):
    """Have the kernel launched so that all of its thread blocks are on the device at once."""

    def generate(context, builder, signature, args):
        context.active_code_library.use_cooperative = True
        return context.get_dummy_value()

    return types.void(), generate


def _mma(shape: str, element: Any, kind: Any, letter: str) -> Any:
    """mma.sync: c + a b for a tile of 16 by 8, of which a lane holds four sums, four words of a, two of b."""
    result = types.UniTuple(element, 4)
    code = f"mma.sync.aligned.{shape} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
    constraints = ",".join([f"={letter}"] * 4 + ["r"] * 6 + [letter] * 4)

    @intrinsic
    def mma(typing, c0, c1, c2, c3, a0, a1, a2, a3, b0, b1):
        def generate(context, builder, signature, args):
            out = ir.LiteralStructType([kind] * 4)
            sums = _asm(builder, out, code, constraints, [*args[4:], *args[:4]], False)
            parts = [builder.extract_value(sums, index) for index in range(4)]
            return context.make_tuple(builder, result, parts)

        return result(*[element] * 4, *[types.uint32] * 6), generate

    return mma


mma_bf16 = _mma("m16n8k16.row.col.f32.bf16.bf16.f32", types.float32, _F32, "f")
mma_int8 = _mma("m16n8k32.row.col.s32.s8.s8.s32", types.int32, _I32, "r")
