"""Vector code as functions that jitted code calls, compiled for this process's rung."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from keepgate_kernels.cpu.dots import Dot
from keepgate_kernels.cpu.rungs import RUNG
from keepgate_kernels.cpu.simd import I64, Body, Emitter, arity

VIEWS: dict[str, type[np.generic]] = {"fp32": np.float32, "bf16": np.uint16, "int8": np.int8}
"""The dtype under which a kernel sees packed weights; that is how Numba tells the precisions apart."""

_PRECISION_OF = {np.dtype(view).name: precision for precision, view in VIEWS.items()}


def intrinsic_of(body: Body) -> Any:
    """The body's code as a function that jitted code calls with intp arguments; returns intp."""

    def typed(_context, *arguments):  # type: ignore[no-untyped-def]
        return types.intp(*arguments), _generator(body, 0)

    return _intrinsic(typed, body.__name__, arity(body))


def by_precision(bodies: Callable[[Dot], Body]) -> Any:
    """Like `intrinsic_of`, with an array before the body's arguments; its dtype says the precision."""

    def typed(_context, matrices, *arguments):  # type: ignore[no-untyped-def]
        body = bodies(RUNG.dot(_PRECISION_OF[str(matrices.dtype)]))
        return types.intp(matrices, *arguments), _generator(body, 1)

    example = bodies(RUNG.fp32)
    return _intrinsic(typed, example.__name__, arity(example) + 1)


def _generator(body: Body, ignored: int) -> Any:
    def generate(_context, builder, _signature, values):  # type: ignore[no-untyped-def]
        result = body(Emitter(builder, RUNG.lanes, RUNG.fused), *values[ignored:])
        return I64(0) if result is None else result

    return generate


def _intrinsic(typed: Any, name: str, count: int) -> Any:
    """Numba wants to see as many named parameters as there will be arguments."""
    names = ["context", *(f"a{index}" for index in range(count))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    typed.__signature__ = inspect.Signature(parameters)
    typed.__name__ = name
    return intrinsic(typed)
