"""The machine's limits as contenders: reading as many bytes as the weights, an instruction's peak."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kernel_bench import loops
from kernel_bench.problem import BYTES, PEAK, STREAMING, Contender, Float32, Problem

STREAM_BYTES = 4 << 20
"""Bytes that one call reads at least."""
PEAK_ITERATIONS = 10_000
OPERAND = 1e-3
"""Every operand of the register loops; sums that grow by its square stay ordinary numbers."""


def _exact() -> float:
    return 0.0


def _read(loop: loops.Loop, buffer: NDArray[np.uint8], size: int, repeats: int) -> object:
    address = buffer.ctypes.data
    return loop(address + -address % loops.LINE, size, repeats)


def _compute(loop: loops.Loop, operands: Float32) -> object:
    return loop(operands.ctypes.data, PEAK_ITERATIONS)


def streams(problem: Problem, precision: str) -> Iterator[Contender]:
    """A step reads a buffer of the weights' size once. The variants differ in how they walk through it."""
    size = problem.weights * BYTES[precision]
    buffer = np.ones(size + loops.LINE, np.uint8)
    repeats = -(-STREAM_BYTES // size)
    for variant, loop in loops.STREAMS.items():
        call = functools.partial(_read, loop, buffer, size, repeats)
        yield Contender(STREAMING, precision, variant, call, _exact, steps=repeats)


def peaks() -> Iterator[Contender]:
    """A step is one iteration on registers alone, `loops.peak_operations` operations."""
    operands = np.full(loops.OPERAND_BYTES // 4, OPERAND, np.float32)
    for precision, loop in loops.PEAKS.items():
        call = functools.partial(_compute, loop, operands)
        yield Contender(
            PEAK,
            precision,
            loops.INSTRUCTIONS[precision],
            call,
            _exact,
            steps=PEAK_ITERATIONS,
            operations=loops.peak_operations(precision),
        )
