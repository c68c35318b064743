"""Vectors of 16 float32 numbers, for work on rows of logits.

Every operation is generic LLVM code on <16 x float>, which compiles to the widest registers that the
processor has. The order of every sum is written out, so it is the same on all processors, and no loop
around it decides whether it vectorises.

Memory is passed as a pointer to float32, which `address` takes from an array: unlike an array or a slice
it counts no references, which costs more than most of these operations. The array must outlive the pointer,
as the arguments of a kernel do. Indices are not checked and count elements of what is loaded or stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 16
"""Elements of a vector."""

_FLOAT, _INT, _LONG, _BITS = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(WIDTH)
_FLOATS = ir.VectorType(_FLOAT, WIDTH)
_DOUBLES = ir.VectorType(ir.DoubleType(), WIDTH)
_INTS = ir.VectorType(_INT, WIDTH)
_LANES = ir.Constant(_INTS, list(range(WIDTH)))
_ZERO_IS_DEFINED = ir.Constant(ir.IntType(1), 0)
_FLOAT_ALIGNMENT = 4

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
memory: Any = types.CPointer(types.float32)  # type: ignore[no-untyped-call]
"""The Numba type of an address."""


@register_model(_Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


def _operation(result: Any, *kinds: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that writes LLVM code for its arguments one that kernels can call.

    It gets the IR builder and an LLVM value for each of `kinds`, and returns one of kind `result`.
    """

    def define(write: Callable[..., Any]) -> Any:
        def typed(typing: Any, *arguments: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                value = write(builder, *args)
                return context.get_dummy_value() if result is types.void else value

            return result(*kinds), generate

        functools.update_wrapper(typed, write)  # Numba reads the names of the arguments from it
        return intrinsic(typed)

    return define


# --- what operations are made of ---


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * WIDTH)


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * WIDTH))


def _element(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    return builder.gep(builder.bitcast(pointer, kind.as_pointer()), [index])


def _vector(builder: Any, pointer: Any, start: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [start]), _FLOATS.as_pointer())


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    name = f"llvm.fmuladd.v{WIDTH}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, [a, b, c])


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _at_least(builder: Any, value: Any, bound: Any) -> Any:
    return builder.fcmp_ordered(">=", value, _splat(builder, bound))


def _mask_bits(builder: Any, mask: Any) -> Any:
    return builder.bitcast(mask, _BITS)


def _combine(builder: Any, value: Any, operation: Callable[[Any, Any], Any]) -> Any:
    """All elements by a tree of halves: i with i + 8, then i with i + 4, and so on."""
    count = WIDTH
    while count > 1:
        count //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        masks = [
            ir.Constant(ir.VectorType(_INT, count), list(range(first, first + count))) for first in (0, count)
        ]
        value = operation(*(builder.shuffle_vector(value, undefined, mask) for mask in masks))
    return builder.extract_element(value, ir.Constant(_INT, 0))


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


# --- memory ---


def _address(typing: Any, array: Any, start: Any) -> Any:
    """Where element `start` of a contiguous array lies, counted through all its dimensions."""
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypeError(f"the address of an array: got {array}, expected it contiguous")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(array)(context, builder, args[0]).data
        return builder.bitcast(builder.gep(data, [args[1]]), _FLOAT.as_pointer())

    return memory(array, types.int64), generate


address: Any = intrinsic(_address)


@_operation(memory, types.int64)
def memory_at(builder: Any, place: Any) -> Any:
    """The address that an integer tells."""
    return builder.inttoptr(place, _FLOAT.as_pointer())


@_operation(memory, memory, types.int64)
def offset(builder: Any, pointer: Any, count: Any) -> Any:
    """The address `count` float32 elements on."""
    return builder.gep(pointer, [count])


@_operation(floats, memory, types.int64)
def load(builder: Any, pointer: Any, start: Any) -> Any:
    """The vector of float32 elements from `start` on."""
    return builder.load(_vector(builder, pointer, start), align=_FLOAT_ALIGNMENT)


@_operation(types.void, memory, types.int64, floats)
def store(builder: Any, pointer: Any, start: Any, value: Any) -> Any:
    """Put a vector at float32 element `start`."""
    builder.store(value, _vector(builder, pointer, start), align=_FLOAT_ALIGNMENT)


def _scalar_access(kind: Any, llvm_kind: Any) -> tuple[Any, Any]:
    @_operation(kind, memory, types.int64)
    def load_scalar(builder: Any, pointer: Any, index: Any) -> Any:
        return builder.load(_element(builder, pointer, index, llvm_kind), align=_FLOAT_ALIGNMENT)

    @_operation(types.void, memory, types.int64, kind)
    def store_scalar(builder: Any, pointer: Any, index: Any, value: Any) -> Any:
        builder.store(value, _element(builder, pointer, index, llvm_kind), align=_FLOAT_ALIGNMENT)

    return load_scalar, store_scalar


load_float, store_float = _scalar_access(types.float32, _FLOAT)
load_double, store_double = _scalar_access(types.float64, ir.DoubleType())
load_long, store_long = _scalar_access(types.uint64, _LONG)


# --- arithmetic ---


@_operation(floats, types.float32)
def splat(builder: Any, value: Any) -> Any:
    """16 times a number."""
    return _splat(builder, value)


@_operation(floats, types.int64, floats, floats)
def first_of(builder: Any, count: Any, value: Any, rest: Any) -> Any:
    """Elements below `count` from value, the others from rest."""
    bound = _splat(builder, builder.trunc(count, _INT))
    return builder.select(builder.icmp_signed("<", _LANES, bound), value, rest)


@_operation(floats, floats, types.float32, floats, floats)
def where_at_least(builder: Any, ranks: Any, bound: Any, value: Any, rest: Any) -> Any:
    """Elements from value where ranks >= bound, the others from rest."""
    return builder.select(_at_least(builder, ranks, bound), value, rest)


@_operation(types.int64, floats, types.float32)
def count_at_least(builder: Any, ranks: Any, bound: Any) -> Any:
    """How many elements are >= bound."""
    return builder.zext(builder.ctpop(_mask_bits(builder, _at_least(builder, ranks, bound))), _LONG)


@_operation(floats, floats, floats)
def maximum(builder: Any, a: Any, b: Any) -> Any:
    """The larger of each pair."""
    return _maximum(builder, a, b)


@_operation(floats, floats, floats)
def subtract(builder: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return builder.fsub(a, b)


@_operation(floats, floats, floats)
def multiply(builder: Any, a: Any, b: Any) -> Any:
    """a b."""
    return builder.fmul(a, b)


@_operation(floats, floats, floats, floats)
def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, fused on the processors that can."""
    return _multiply_add(builder, a, b, c)


@_operation(types.boolean, floats)
def has_nan(builder: Any, value: Any) -> Any:
    """Whether any element is NaN."""
    mask = _mask_bits(builder, builder.fcmp_unordered("uno", value, value))
    return builder.icmp_unsigned("!=", mask, ir.Constant(_BITS, 0))


@_operation(types.float32, floats)
def largest_of(builder: Any, value: Any) -> Any:
    """The largest element, if none is NaN."""
    return _combine(builder, value, lambda a, b: _maximum(builder, a, b))


@_operation(types.float64, floats)
def sum_of(builder: Any, value: Any) -> Any:
    """The sum in float64, by a tree of halves: element i with i + 8, then i with i + 4, and so on."""
    return _combine(builder, builder.fpext(value, _DOUBLES), builder.fadd)


@_operation(types.int64, floats, types.float32)
def first_equal(builder: Any, value: Any, wanted: Any) -> Any:
    """The first lane that holds `wanted`; 16 if none does."""
    mask = builder.fcmp_ordered("==", value, _splat(builder, wanted))
    return builder.zext(builder.cttz(_mask_bits(builder, mask), _ZERO_IS_DEFINED), _LONG)


@_operation(types.int64, floats, types.float64)
def first_beyond(builder: Any, value: Any, target: Any) -> Any:
    """The first lane above zero at which the running sum in float64 exceeds `target`.

    Elements are at least 0, and one is above. If no sum exceeds the target, the last lane above zero.
    """
    positive = builder.fcmp_ordered(">", value, _constant(0.0))
    beyond = builder.fcmp_ordered(">", _running_sums(builder, value), _splat(builder, target))
    found = _mask_bits(builder, builder.and_(beyond, positive))
    first = builder.cttz(found, _ZERO_IS_DEFINED)
    leading = builder.ctlz(_mask_bits(builder, positive), _ZERO_IS_DEFINED)
    last = builder.sub(ir.Constant(_BITS, WIDTH - 1), leading)
    none = builder.icmp_unsigned("==", found, ir.Constant(_BITS, 0))
    return builder.zext(builder.select(none, last, first), _LONG)


@_operation(floats, floats)
def exp_nonpositive(builder: Any, value: Any) -> Any:
    """e**x for x <= 0: relative error below 3e-7, and about 1e-38 below -87, never 0.

    x = n ln 2 + r with |r| <= ln(2) / 2 (Cody and Waite); Taylor's polynomial of degree 6 in r, and n
    added to its exponent.
    """
    x = _maximum(builder, value, _constant(_EXP_FLOOR))
    rounded = _multiply_add(builder, x, _constant(_LOG2_E), _constant(_ROUND))
    n = builder.fsub(rounded, _constant(_ROUND))
    r = _multiply_add(builder, n, _constant(-_LN2_HIGH), x)
    r = _multiply_add(builder, n, _constant(-_LN2_LOW), r)
    power = _constant(_EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        power = _multiply_add(builder, power, r, _constant(coefficient))
    exponent = builder.shl(builder.bitcast(rounded, _INTS), ir.Constant(_INTS, [_MANTISSA_BITS] * WIDTH))
    return builder.bitcast(builder.add(builder.bitcast(power, _INTS), exponent), _FLOATS)
