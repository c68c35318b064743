"""A small language for vector code: LLVM's vectors, written like NumPy, called from Numba.

Loops that Numba hands to LLVM become vector code only sometimes. What is written with `Emitter` always
does: its methods append LLVM instructions for vectors of `lanes` float32 numbers, and `intrinsics` makes the
result callable from jitted code. Arguments of such code are addresses and counts (int64). A body is an
ordinary Python function that runs once, while code is generated; its Python loops are unrolled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from llvmlite import ir

F32 = ir.FloatType()
I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
FLOAT_BYTES = 4


class Floats:
    """A vector of float32 numbers in code under construction."""

    __slots__ = ("emitter", "value")

    def __init__(self, emitter: Emitter, value: ir.Value) -> None:
        self.emitter = emitter
        self.value = value

    def __add__(self, other: Floats) -> Floats:
        return Floats(self.emitter, self.emitter.builder.fadd(self.value, other.value))

    def __sub__(self, other: Floats) -> Floats:
        return Floats(self.emitter, self.emitter.builder.fsub(self.value, other.value))

    def __mul__(self, other: Floats) -> Floats:
        return Floats(self.emitter, self.emitter.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Floats) -> Floats:
        return Floats(self.emitter, self.emitter.builder.fdiv(self.value, other.value))


class Emitter:
    """Appends instructions for vectors of `lanes` float32 numbers at the builder's position.

    fused: whether multiply-add is one instruction with one rounding on the target.
    """

    def __init__(self, builder: ir.IRBuilder, lanes: int, fused: bool) -> None:
        self.builder = builder
        self.lanes = lanes
        self.fused = fused
        self.vector_bytes = lanes * FLOAT_BYTES

    def vector(self, element: ir.Type, count: int | None = None) -> ir.VectorType:
        """The type of a vector of `count` elements, by default one a lane."""
        return ir.VectorType(element, count or self.lanes)

    def _function(self, name: str, kind: ir.FunctionType) -> ir.Function:
        known = self.builder.module.globals.get(name)
        return known or ir.Function(self.builder.module, kind, name)

    def call(self, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
        """Call LLVM's intrinsic of that name."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(self._function(name, kind), arguments)

    def offset(self, address: ir.Value, count: int) -> ir.Value:
        """address + count bytes."""
        return self.builder.add(address, I64(count)) if count else address

    def load_as(self, kind: ir.Type, address: ir.Value) -> ir.Value:
        """A value of that type, which need not be aligned."""
        return self.builder.load(self.builder.inttoptr(address, POINTER), typ=kind, align=1)

    def store_raw(self, value: ir.Value, address: ir.Value) -> None:
        """Store a value of any type."""
        self.builder.store(value, self.builder.inttoptr(address, POINTER), align=1)

    def load(self, address: ir.Value, vector: int = 0) -> Floats:
        """The float32 vector that lies `vector` vectors behind the address."""
        return Floats(self, self.load_as(self.vector(F32), self.offset(address, vector * self.vector_bytes)))

    def store(self, value: Floats, address: ir.Value, vector: int = 0) -> None:
        """Store a float32 vector `vector` vectors behind the address."""
        self.store_raw(value.value, self.offset(address, vector * self.vector_bytes))

    def splat(self, scalar: ir.Value, count: int | None = None) -> ir.Value:
        """A vector that holds a scalar in every lane."""
        kind = self.vector(scalar.type, count)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def broadcast(self, address: ir.Value) -> Floats:
        """The float32 number at the address, in every lane."""
        return Floats(self, self.splat(self.load_as(F32, address)))

    def constant(self, number: float) -> Floats:
        """A float32 number in every lane."""
        return Floats(self, ir.Constant(self.vector(F32), [number] * self.lanes))

    def integers(self, number: int, element: ir.IntType = I32) -> ir.Constant:
        """An integer in every lane."""
        return ir.Constant(self.vector(element), [number] * self.lanes)

    def fma(self, a: Floats, b: Floats, c: Floats) -> Floats:
        """a * b + c."""
        if not self.fused:
            return a * b + c
        name = f"llvm.fma.v{self.lanes}f32"
        return Floats(self, self.call(name, self.vector(F32), a.value, b.value, c.value))

    def polynomial(self, x: Floats, coefficients: tuple[float, ...]) -> Floats:
        """c0 + c1 x + c2 x^2 + ... by Horner's rule."""
        result = self.constant(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, self.constant(coefficient))
        return result

    def minimum(self, bound: Floats, x: Floats) -> Floats:
        """The lesser; NaN where x is."""
        return self._select("<", bound, x)

    def maximum(self, bound: Floats, x: Floats) -> Floats:
        """The greater; NaN where x is."""
        return self._select(">", bound, x)

    def _select(self, operator: str, bound: Floats, x: Floats) -> Floats:
        holds = self.builder.fcmp_ordered(operator, bound.value, x.value)
        return Floats(self, self.builder.select(holds, bound.value, x.value))

    def clamp(self, x: Floats, bound: Floats) -> Floats:
        """x within [-bound, bound]; NaN where x is."""
        return self.maximum(self.constant(0.0) - bound, self.minimum(bound, x))

    def absolute(self, x: Floats) -> Floats:
        """|x|."""
        return Floats(self, self.call(f"llvm.fabs.v{self.lanes}f32", self.vector(F32), x.value))

    def bits(self, x: Floats) -> ir.Value:
        """The numbers' bit patterns as int32."""
        return self.builder.bitcast(x.value, self.vector(I32))

    def from_bits(self, bits: ir.Value) -> Floats:
        """int32 bit patterns as float32 numbers."""
        return Floats(self, self.builder.bitcast(bits, self.vector(F32)))

    def from_integers(self, integers: ir.Value) -> Floats:
        """int32 numbers as float32 numbers."""
        return Floats(self, self.builder.sitofp(integers, self.vector(F32)))

    def prefetch(self, address: ir.Value) -> None:
        """Ask for the line at an address, which need not be mapped, into the second-level cache."""
        pointer = self.builder.inttoptr(address, POINTER)
        read, keep, data = I32(0), I32(2), I32(1)
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        self.builder.call(self._function("llvm.prefetch.p0", kind), [pointer, read, keep, data])

    def loop(
        self,
        first: ir.Value,
        last: ir.Value,
        step: int,
        initial: list[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """Run body(i, values) -> values for i = first, first + step, ... below last; the values after it."""
        builder = self.builder
        before = builder.block
        inside, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", first, last), inside, after)
        builder.position_at_end(inside)
        index = builder.phi(I64)
        index.add_incoming(first, before)
        carried = [builder.phi(value.type) for value in initial]
        for phi, value in zip(carried, initial, strict=True):
            phi.add_incoming(value, before)
        results = body(index, carried)
        following = builder.add(index, I64(step))
        end = builder.block
        index.add_incoming(following, end)
        for phi, value in zip(carried, results, strict=True):
            phi.add_incoming(value, end)
        builder.cbranch(builder.icmp_signed("<", following, last), inside, after)
        builder.position_at_end(after)
        finals = [builder.phi(value.type) for value in initial]
        for phi, none, some in zip(finals, initial, results, strict=True):
            phi.add_incoming(none, before)
            phi.add_incoming(some, end)
        return finals

    def loop_over(
        self,
        count: ir.Value,
        initial: list[ir.Value],
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
        unroll: int = 4,
    ) -> list[ir.Value]:
        """Run body(i, values) -> values for the vectors of `count` numbers, i their first numbers.

        `unroll` of them an iteration, each with values of its own, so that none waits for another. Returns
        unroll times as many values as the initial ones.
        """
        wide = self.lanes * unroll
        size = len(initial)

        def several(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
            results = []
            for number in range(unroll):
                place = self.offset(index, number * self.lanes)
                results += body(place, values[number * size : (number + 1) * size])
            return results

        def one(index: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
            return [*body(index, values[:size]), *values[size:]]

        whole = self.builder.mul(self.builder.sdiv(count, I64(wide)), I64(wide))
        values = self.loop(I64(0), whole, wide, initial * unroll, several)
        return self.loop(whole, count, self.lanes, values, one)


Body = Callable[..., ir.Value | None]
"""body(emitter, *arguments): appends code; returns an int64 or nothing."""


def arity(body: Body) -> int:
    """Arguments of the code that a body makes."""
    return len(inspect.signature(body).parameters) - 1
