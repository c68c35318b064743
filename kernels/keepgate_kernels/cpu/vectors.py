"""Vectors of 16 float32 numbers, for work on rows of logits.

Every operation is generic LLVM code on <16 x float>, which compiles to the widest registers that the
processor has. The order of every sum is written out, so it is the same on all processors, and no loop
around it decides whether it vectorises.

Arrays are contiguous, of float32 or float64, and any number of dimensions: `start` counts their elements
as they lie in memory. A vector in a float64 array takes the place of eight of its elements, so that one
array serves as work space for everything. Kernels pass array and start, because a slice counts references.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 16
"""Elements of a vector."""

_INT = ir.IntType(32)
_LONG = ir.IntType(64)
_BITS = ir.IntType(WIDTH)
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_DOUBLES = ir.VectorType(ir.DoubleType(), WIDTH)
_INTS = ir.VectorType(_INT, WIDTH)
_LANES = ir.Constant(_INTS, list(range(WIDTH)))
_ZEROS = ir.Constant(_FLOATS, [0.0] * WIDTH)
_ZERO_IS_DEFINED = ir.Constant(ir.IntType(1), 0)
_FLOAT_ALIGNMENT = 4
_IN_ARRAYS = (types.float32, types.float64)

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.1219444e-4
_ROUND = 12582912.0
"""1.5 * 2**23: added to a float32 of small magnitude it leaves the nearest integer in the low bits."""
_EXP_FLOOR = -87.0
_EXP_COEFFICIENTS = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
_MANTISSA_BITS = 23


class _Floats(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


floats = _Floats()
"""The Numba type of a vector."""


@register_model(_Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


# --- what operations are made of: LLVM values in, LLVM values out ---


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * WIDTH)


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * WIDTH))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, start: Any, kind: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), kind.as_pointer())


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, fused on the processors that can."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{WIDTH}f32")
    return builder.call(function, [a, b, c])


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _combine(builder: Any, value: Any, operation: Callable[[Any, Any], Any]) -> Any:
    """All elements by a tree of halves: i with i + 8, then i with i + 4, and so on."""
    undefined, count = ir.Constant(value.type, ir.Undefined), WIDTH
    while count > 1:
        count //= 2
        kind = ir.VectorType(_INT, count)
        low, high = (
            builder.shuffle_vector(value, undefined, ir.Constant(kind, list(range(first, first + count))))
            for first in (0, count)
        )
        value = operation(low, high)
        undefined = ir.Constant(value.type, ir.Undefined)
    return builder.extract_element(value, ir.Constant(_INT, 0))


def _mask_bits(builder: Any, mask: Any) -> Any:
    return builder.bitcast(mask, _BITS)


def _running_sums(builder: Any, value: Any) -> Any:
    """Sums of elements 0 to i, in float64, by doubling distances (Hillis and Steele, 1986)."""
    sums = builder.fpext(value, _DOUBLES)
    zeros = ir.Constant(_DOUBLES, [0.0] * WIDTH)
    distance = 1
    while distance < WIDTH:
        lanes = [WIDTH if i < distance else i - distance for i in range(WIDTH)]
        shifted = builder.shuffle_vector(sums, zeros, ir.Constant(_INTS, lanes))
        sums = builder.fadd(sums, shifted)
        distance *= 2
    return sums


def _checked(array: Any) -> Any:
    if isinstance(array, types.Array) and array.layout == "C" and array.dtype in _IN_ARRAYS:
        return array
    raise TypeError(f"a vector of an array: got {array}, expected it contiguous, of float32 or float64")


# --- operations that kernels call ---


@intrinsic
def load(typing: Any, array: Any, start: Any) -> Any:
    """16 numbers from `start` on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args, _FLOATS)
        return builder.load(pointer, align=_FLOAT_ALIGNMENT)

    return floats(_checked(array), types.int64), generate


@intrinsic
def store(typing: Any, array: Any, start: Any, value: Any) -> Any:
    """Put 16 numbers at `start`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args[:2], _FLOATS)
        builder.store(args[2], pointer, align=_FLOAT_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(_checked(array), types.int64, floats), generate


@intrinsic
def load_one(typing: Any, array: Any, start: Any, offset: Any) -> Any:
    """The float32 that is `offset` numbers into the vectors that begin at `start`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args[:2], ir.FloatType())
        return builder.load(builder.gep(pointer, [args[2]]), align=_FLOAT_ALIGNMENT)

    return types.float32(_checked(array), types.int64, types.int64), generate


@intrinsic
def store_one(typing: Any, array: Any, start: Any, offset: Any, value: Any) -> Any:
    """Put one float32 where `load_one` finds it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *args[:2], ir.FloatType())
        builder.store(args[3], builder.gep(pointer, [args[2]]), align=_FLOAT_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(_checked(array), types.int64, types.int64, types.float32), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """16 times a float32."""
    return floats(types.float32), lambda context, builder, signature, args: _splat(builder, *args)


@intrinsic
def first_of(typing: Any, count: Any, value: Any, rest: Any) -> Any:
    """Elements below `count` from value, the others from rest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bound = _splat(builder, builder.trunc(args[0], _INT))
        return builder.select(builder.icmp_signed("<", _LANES, bound), *args[1:])

    return floats(types.int64, floats, floats), generate


@intrinsic
def at_least(typing: Any, ranks: Any, bound: Any, value: Any, rest: Any) -> Any:
    """Elements from value where ranks >= bound, the others from rest. bound: float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.fcmp_ordered(">=", args[0], _splat(builder, args[1]))
        return builder.select(mask, *args[2:])

    return floats(floats, types.float32, floats, floats), generate


@intrinsic
def count_at_least(typing: Any, ranks: Any, bound: Any) -> Any:
    """How many elements are >= bound, a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.fcmp_ordered(">=", args[0], _splat(builder, args[1]))
        return builder.zext(builder.ctpop(_mask_bits(builder, mask)), _LONG)

    return types.int64(floats, types.float32), generate


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of each pair."""
    return floats(floats, floats), lambda context, builder, signature, args: _maximum(builder, *args)


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return floats(floats, floats), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """a b."""
    return floats(floats, floats), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, fused on the processors that can."""
    return floats(floats, floats, floats), lambda context, builder, signature, args: _multiply_add(
        builder, *args
    )


@intrinsic
def has_nan(typing: Any, value: Any) -> Any:
    """Whether any element is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.icmp_unsigned("!=", _mask_bits(builder, mask), ir.Constant(_BITS, 0))

    return types.boolean(floats), generate


@intrinsic
def largest_of(typing: Any, value: Any) -> Any:
    """The largest element, a float32, if none is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _combine(builder, args[0], lambda a, b: _maximum(builder, a, b))

    return types.float32(floats), generate


@intrinsic
def sum_of(typing: Any, value: Any) -> Any:
    """The sum as a float64, by a tree of halves: element i with i + 8, then i with i + 4, and so on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _combine(builder, builder.fpext(args[0], _DOUBLES), builder.fadd)

    return types.float64(floats), generate


@intrinsic
def first_equal(typing: Any, value: Any, wanted: Any) -> Any:
    """The first lane that holds the float32 `wanted`; 16 if none does."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = builder.fcmp_ordered("==", args[0], _splat(builder, args[1]))
        return builder.zext(builder.cttz(_mask_bits(builder, mask), _ZERO_IS_DEFINED), _LONG)

    return types.int64(floats, types.float32), generate


@intrinsic
def first_beyond(typing: Any, value: Any, target: Any) -> Any:
    """The first lane above zero at which the running sum in float64 exceeds `target`.

    Elements are at least 0, and one is above. If no sum exceeds the target, the last lane above zero.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        positive = builder.fcmp_ordered(">", args[0], _ZEROS)
        sums = _running_sums(builder, args[0])
        beyond = builder.fcmp_ordered(">", sums, _splat(builder, args[1]))
        found = _mask_bits(builder, builder.and_(beyond, positive))
        first = builder.cttz(found, _ZERO_IS_DEFINED)
        leading = builder.ctlz(_mask_bits(builder, positive), _ZERO_IS_DEFINED)
        last = builder.sub(ir.Constant(_BITS, WIDTH - 1), leading)
        none = builder.icmp_unsigned("==", found, ir.Constant(_BITS, 0))
        return builder.zext(builder.select(none, last, first), _LONG)

    return types.int64(floats, types.float64), generate


@intrinsic
def exp_nonpositive(typing: Any, value: Any) -> Any:
    """e**x for x <= 0: relative error below 3e-7, and about 1e-38 below -87, never 0.

    x = n ln 2 + r with |r| <= ln(2) / 2 (Cody and Waite); Taylor's polynomial of degree 6 in r, and n
    added to its exponent.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = _maximum(builder, args[0], _constant(_EXP_FLOOR))
        rounded = _multiply_add(builder, x, _constant(_LOG2_E), _constant(_ROUND))
        n = builder.fsub(rounded, _constant(_ROUND))
        r = _multiply_add(builder, n, _constant(-_LN2_HIGH), x)
        r = _multiply_add(builder, n, _constant(-_LN2_LOW), r)
        power = _constant(_EXP_COEFFICIENTS[0])
        for coefficient in _EXP_COEFFICIENTS[1:]:
            power = _multiply_add(builder, power, r, _constant(coefficient))
        exponent = builder.shl(
            builder.bitcast(rounded, _INTS), ir.Constant(_INTS, [_MANTISSA_BITS] * WIDTH)
        )
        return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _FLOATS)

    return floats(floats), generate
