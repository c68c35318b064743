"""Vector code as functions that jitted code calls, compiled for this process's rung."""

from __future__ import annotations

import inspect
from typing import Any

from numba import types
from numba.extending import intrinsic

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.simd import I64, Body, Emitter, arity


def intrinsic_of(body: Body) -> Any:
    """The body's code as a function that jitted code calls with intp arguments; returns intp."""

    def typed(_context, *arguments):
        return types.intp(*arguments), _generator(body)

    return _intrinsic(typed, body.__name__, arity(body))


def _generator(body: Body) -> Any:
    def generate(_context, builder, _signature, values):
        result = body(Emitter(builder, RUNG.lanes, RUNG.fused), *values)
        return I64(0) if result is None else result

    return generate


def _intrinsic(typed: Any, name: str, count: int) -> Any:
    """Numba wants to see as many named parameters as there will be arguments."""
    names = ["context", *(f"a{index}" for index in range(count))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    typed.__signature__ = inspect.Signature(parameters)
    typed.__name__ = name
    return intrinsic(typed)
