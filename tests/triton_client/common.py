"""Short forms of what scenarios do often."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from keepgate_client import Client
from tritonclient.utils import InferenceServerException

SECONDS = 60.0
Row = tuple[bytes, ...]
"""The bits of one answer: of logits and token, or of outputs."""
_numbers = itertools.count(1)


def number() -> int:
    """A sequence id that no scenario had before."""
    return next(_numbers)


def names_of(model: str) -> tuple[str, ...]:
    return ("outputs",) if model in ("el-nino", "vectors") else ("logits", "token")


def tensor(values: Any) -> Any:
    """The input of token ids [T], or features [T, K]."""
    array = np.asarray(values)
    kind, name, dtype = (
        ("INT32", "tokens", np.int32) if array.dtype.kind in "iu" else ("FP32", "features", np.float32)
    )
    made = triton.InferInput(name, list(array.shape), kind)
    return made.set_data_from_numpy(array.astype(dtype))


def row(result: Any, model: str) -> Row:
    return tuple(result.as_numpy(name).tobytes() for name in names_of(model))


def infer(client: Any, model: str, values: Any, **more: Any) -> Any:
    """A result."""
    return client.infer(model, [tensor(values)], client_timeout=SECONDS, **more)


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """Status and message of a call that must fail."""
    try:
        call()
    except InferenceServerException as error:
        return str(error.status()), str(error.message())
    raise AssertionError("it was not refused")


def inputs(client: Any, model: str, count: int, seed: int) -> list[Any]:
    """Steps of one input each: token ids [1], or features [1, K]."""
    rng = np.random.default_rng(seed)
    shape = client.get_model_metadata(model).inputs[0].shape
    if len(shape) > 1:
        return list(rng.standard_normal((count, 1, shape[1])).astype(np.float32))
    return list(rng.integers(0, 11, (count, 1)))


def native(address: str, model: str, steps: Sequence[Any]) -> list[Row]:
    """The bits that the native API gives for the same steps of one session."""
    rows: list[Row] = []
    with Client(address) as client, client.open(model) as session:
        for values in steps:
            array = np.asarray(values)
            if array.dtype.kind in "iu":
                told = session.step(tokens=array.tolist(), logits=True)
                assert told.logits is not None
                rows.append((told.logits.tobytes(), np.int32(told.token or 0).tobytes()))
            else:
                told = session.step(features=array)
                assert told.outputs is not None
                rows.append((told.outputs.tobytes(),))
    return rows
