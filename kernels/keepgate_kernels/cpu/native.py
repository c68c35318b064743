"""The code that depends on the precision: products and conversions of rows, as functions with an address.

Everything else in a step is compiled once for all precisions and calls these through a table. That is for the
compiler's sake: Numba compiles a function anew into each of its callers, and theirs, and a product's code is
as long as that of the rest together.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types as numba_types
from numpy.typing import NDArray

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.intrinsics import intrinsic_of
from keepgate_kernels.cpu.matmul import ROWS, product
from keepgate_kernels.cpu.rows import convert
from keepgate_kernels.cpu.simd import I64, Body, Emitter, arity
from keepgate_kernels.jit import cached

FEWEST_VECTORS, MOST_VECTORS = 3, 4
"""Vectors of outputs in a block of weights."""

STEP_BYTES, CHUNK, CONVERT_UNBOUNDED, CONVERT_BOUNDED, PRODUCTS = range(5)
"""Places in a table: bytes of x a step of k, steps of a chunk, and where addresses begin."""

CHUNK_BYTES = 2048
"""Of a row of x. Longer sums are added up a chunk at a time for all rows of a tile, so that the weights of a
chunk, up to 128 KiB, stay in the second-level cache while the rows go by. Integers, a quarter the size, have
no chunks: their sums become float32 once."""
UNBROKEN = 1 << 40


class Native:
    """A precision's functions. table: int64, see STEP_BYTES and on; valid as long as this lives."""

    def __init__(self, precision: str) -> None:
        dot = RUNG.dot(precision)
        bodies = [convert(dot, False), convert(dot, True)]
        for vectors in range(FEWEST_VECTORS, MOST_VECTORS + 1):
            bodies += [product(dot, rows, vectors) for rows in range(1, ROWS + 1)]
        names = [f"{precision}_{body.__name__}" for body in bodies]
        if len(set(names)) < len(names):  # one would be served the other's code
            raise RuntimeError(f"two functions of one name among {names}")
        self._functions = [_compiled(body, name) for body, name in zip(bodies, names, strict=True)]
        step_bytes = dot.group * dot.x_bytes
        chunk = UNBROKEN if dot.integer else CHUNK_BYTES // step_bytes
        addresses = [function.address for function in self._functions]
        self.table: NDArray[np.int64] = np.array([step_bytes, chunk, *addresses], np.int64)


@functools.cache
def native(precision: str) -> Native:
    """The functions of a precision, compiled unless the cache holds them."""
    return Native(precision)


def _compiled(body: Body, name: str) -> Any:
    """A body as a C function. The cache tells functions apart by name, and cannot tell closures apart."""
    shape = {3: _three, 8: _eight}[arity(body)]
    function = types.FunctionType(shape.__code__, {"__name__": __name__, "code": intrinsic_of(body)}, name)
    function.__qualname__ = name
    signature = numba_types.void(*[numba_types.intp] * arity(body))
    with cached():
        return numba.cfunc(signature, cache=True)(function)


def _three(a, b, c):
    code(a, b, c)  # noqa: F821


def _eight(a, b, c, d, e, f, g, h):
    code(a, b, c, d, e, f, g, h)  # noqa: F821


def _call(e: Emitter, function: ir.Value, *arguments: ir.Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
    e.builder.call(e.builder.inttoptr(function, kind.as_pointer()), arguments)


def _call_three(e: Emitter, function: ir.Value, a: ir.Value, b: ir.Value, c: ir.Value) -> None:
    _call(e, function, a, b, c)


def _call_eight(
    e: Emitter,
    function: ir.Value,
    a: ir.Value,
    b: ir.Value,
    c: ir.Value,
    d: ir.Value,
    f: ir.Value,
    g: ir.Value,
    h: ir.Value,
    i: ir.Value,
) -> None:
    _call(e, function, a, b, c, d, f, g, h, i)


call_three, call_eight = intrinsic_of(_call_three), intrinsic_of(_call_eight)
"""Call the C function at an address (the first argument) from jitted code."""
