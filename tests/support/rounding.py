"""Weights and numbers as a precision holds them, in float64: what its products are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from keepgate_kernels import ModelSpec, TokenInput
from numpy.typing import NDArray

from support.random_models import Tensors


def rounded_bf16(values: NDArray[Any]) -> NDArray[np.float64]:
    """To eight significant bits, to nearest, ties to even."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    result: NDArray[np.float64] = np.ldexp(np.rint(mantissa * 256) / 256, exponent)
    return result


def rounded_int8(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """To multiples of a 127th of the largest magnitude of a row, an output's weights."""
    scale = np.abs(matrix).max(axis=1, keepdims=True).astype(np.float64) / 127
    result: NDArray[np.float64] = np.rint(matrix / np.where(scale > 0, scale, 1)) * scale
    return result


def rounded(spec: ModelSpec, tensors: Tensors, precision: str) -> dict[str, Any]:
    """The tensors as products of that precision see them; a token's own products are folded in float32."""
    matrices = [
        name for name in tensors if name.endswith(("weight_ih", "weight_hh", "projection", "head.weight"))
    ]
    if isinstance(spec.input, TokenInput):
        matrices.remove("layers.0.weight_ih")
    function = {"fp32": lambda matrix: matrix, "bf16": rounded_bf16, "int8": rounded_int8}[precision]
    return {name: function(t) if name in matrices else t for name, t in tensors.items()}


def exact_numbers(shape: tuple[int, ...], precision: str, seed: int) -> NDArray[np.float32]:
    """Numbers in [-1, 1] that the precision holds, the last of each row 1, which sets the row's scale."""
    levels = np.random.default_rng(seed).integers(-127, 128, shape)
    levels[..., -1] = 127
    return (levels / (127.0 if precision == "int8" else 128.0)).astype(np.float32)
