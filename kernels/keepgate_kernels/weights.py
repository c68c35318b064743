"""A model's canonical tensors: what they must be, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.spec import ModelSpec
from keepgate_kernels.spec_json import dump_spec

Float32 = NDArray[np.float32]

VECTOR = 16
"""float32 numbers in a 512-bit vector; every padded width is a multiple."""

MAX_TABLE_BYTES = 64 << 20
"""The largest table, of one row a token, that a folded embedding may become."""

PRECISIONS = ("fp32", "bf16", "int8")
"""How weights are held and multiplied; the state is float32 in all of them."""


class WeightsError(ValueError):
    """The tensors do not fit the spec; the text names the tensor, what came and what was expected."""


def check_precision(precision: str) -> None:
    """Raise ValueError unless it is one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")


def padded(width: int) -> int:
    """The next multiple of VECTOR."""
    return -(-width // VECTOR) * VECTOR


def check_tensors(spec: ModelSpec, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise WeightsError unless names, shapes and dtypes are those of the spec and all values finite."""
    expected = spec.tensors()
    for name in sorted(expected.keys() - tensors.keys()):
        raise WeightsError(f"tensor {name}: missing, expected float32 {list(expected[name])}")
    for name in sorted(tensors.keys() - expected.keys()):
        raise WeightsError(f"tensor {name}: not expected by the spec")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise WeightsError(
                f"tensor {name}: got {tensor.dtype} {list(tensor.shape)}, expected float32 {list(shape)}"
            )
        if not np.isfinite(tensor).all():
            raise WeightsError(f"tensor {name}: holds NaN or infinity, expected finite values")


def fingerprint(spec: ModelSpec, tensors: Mapping[str, Float32]) -> str:
    """SHA-256, in hexadecimal, of the spec and all weights."""
    digest = hashlib.sha256(dump_spec(spec).encode())
    for name in spec.tensors():
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(tensors[name], "<f4").data)
    return digest.hexdigest()
