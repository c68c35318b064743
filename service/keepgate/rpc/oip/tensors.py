"""Between tensors and the domain. Elements are little-endian, in row-major order.

Raises InvalidArgumentError, and UnsupportedError for shared memory and classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from keepgate_protos.oip import grpc_service_pb2 as pb
from numpy.typing import NDArray

from keepgate.engine.job import Prediction
from keepgate.errors import InvalidArgumentError, UnsupportedError
from keepgate.models.registry import LoadedModel
from keepgate.request import Wants
from keepgate.rpc.convert import MAX_FEATURE

ANY = -1
"""A dimension of any size: the inputs of a request, or its predictions."""
DTYPES = {"INT32": np.dtype("<i4"), "FP32": np.dtype("<f4")}
CONTENTS = {"INT32": "int_contents", "FP32": "fp32_contents"}
HIDDEN = "hidden"
GATES = "gates"


class Tensor(NamedTuple):
    """What a model takes or gives."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_of(model: LoadedModel) -> Tensor:
    if model.vocabulary_size:
        return Tensor("tokens", "INT32", (ANY,))
    return Tensor("features", "FP32", (ANY, _size(model.spec.input)))


def outputs_of(model: LoadedModel) -> list[Tensor]:
    """All that may be asked for; those that come unasked first."""
    size = _size(model.spec.head)
    hidden = Tensor(HIDDEN, "FP32", (ANY, sum(layer.output_size for layer in model.spec.layers)))
    if model.vocabulary_size:
        return [Tensor("logits", "FP32", (ANY, size)), Tensor("token", "INT32", (ANY,)), hidden]
    return [Tensor("outputs", "FP32", (ANY, size)), hidden]


def inputs_from(request: pb.ModelInferRequest, model: LoadedModel, limit: int) -> NDArray[Any]:
    """uint32 [T] token ids or float32 [T, K] features, 1 <= T <= limit, valid for the model.

    The tensor's shape is [T] or [1, T], or [T, K] or [1, T, K]; [K] is one feature vector.
    """
    wanted = input_of(model)
    if len(request.inputs) != 1 or request.inputs[0].name != wanted.name:
        names = ", ".join(repr(tensor.name[:100]) for tensor in request.inputs[:5]) or "nothing"
        raise InvalidArgumentError("inputs", names, f"{wanted.name!r}, the input of model {model.key.name!r}")
    tensor = request.inputs[0]
    _check_no_memory(tensor.name, tensor.parameters)
    if tensor.datatype != wanted.datatype:
        raise InvalidArgumentError("inputs[0].datatype", repr(tensor.datatype[:20]), wanted.datatype)
    count = _count(tensor.shape, wanted, limit)
    elements = _elements(request, wanted, math.prod(tensor.shape))
    if wanted.name == "tokens":
        return _tokens(elements, model.vocabulary_size)
    return _features(elements).reshape(count, -1)


def outputs_from(request: pb.ModelInferRequest, model: LoadedModel) -> list[Tensor]:
    """What the response is to have."""
    known = {tensor.name: tensor for tensor in outputs_of(model)}
    if not request.outputs:
        return [tensor for tensor in known.values() if tensor.name != HIDDEN]
    wanted: dict[str, Tensor] = {}
    for index, output in enumerate(request.outputs):
        _check_no_memory(output.name, output.parameters)
        if output.name == GATES:
            raise InvalidArgumentError(
                f"outputs[{index}].name", repr(GATES), "another: the kernels keep no activations of gates"
            )
        if output.name not in known:
            raise InvalidArgumentError(
                f"outputs[{index}].name", repr(output.name[:100]), f"one of {', '.join(known)}"
            )
        wanted[output.name] = known[output.name]
    return list(wanted.values())


def wants_of(outputs: Sequence[Tensor]) -> Wants:
    names = {tensor.name for tensor in outputs}
    return Wants(logits="logits" in names, hidden=HIDDEN in names)


def write(
    response: pb.ModelInferResponse, outputs: Sequence[Tensor], predictions: Sequence[Prediction]
) -> None:
    """Put tensors of one row a prediction into a response."""
    for tensor in outputs:
        rows = np.asarray(list(_rows(tensor.name, predictions)), DTYPES[tensor.datatype])
        message = response.outputs.add(name=tensor.name, datatype=tensor.datatype)
        message.shape.extend(rows.shape)
        response.raw_output_contents.append(rows.tobytes())


def row_bytes(outputs: Sequence[Tensor]) -> int:
    """What one prediction takes in a response."""
    return sum(math.prod(tensor.shape[1:]) * DTYPES[tensor.datatype].itemsize for tensor in outputs)


def _rows(name: str, predictions: Sequence[Prediction]) -> Iterator[Any]:
    for prediction in predictions:
        if name == "token":
            yield prediction.token
        elif name == HIDDEN:
            yield np.concatenate(prediction.hidden or [])
        else:
            yield prediction.logits if name == "logits" else prediction.outputs


def _count(shape: Sequence[int], wanted: Tensor, limit: int) -> int:
    """Inputs of a tensor: T."""
    field, given = "inputs[0].shape", list(shape[:8])
    dims = list(shape)
    tail = list(wanted.shape[1:])
    if len(dims) == len(tail) + 2:
        if dims[0] != 1:
            raise InvalidArgumentError(field, str(given), "1 first: a sequence must specify batch-size 1")
        dims = dims[1:]
    elif tail and len(dims) == 1:
        dims = [1, *dims]
    if len(dims) != len(tail) + 1 or dims[1:] != tail:
        raise InvalidArgumentError(field, str(given), str(list(wanted.shape)))
    if not 1 <= dims[0] <= limit:
        raise InvalidArgumentError(field, str(given), f"from 1 to {limit} inputs")
    return dims[0]


def _elements(request: pb.ModelInferRequest, wanted: Tensor, count: int) -> NDArray[Any]:
    tensor, raw = request.inputs[0], request.raw_input_contents
    if not raw:
        values = getattr(tensor.contents, CONTENTS[wanted.datatype])
        if len(values) != count:
            field = f"inputs[0].contents.{CONTENTS[wanted.datatype]}"
            raise InvalidArgumentError(field, f"{len(values)} elements", f"{count}, as the shape says")
        return np.array(values, DTYPES[wanted.datatype])
    if len(raw) != 1:
        raise InvalidArgumentError("raw_input_contents", f"{len(raw)} entries", "1, one an input")
    if tensor.HasField("contents") and tensor.contents.ByteSize():
        raise InvalidArgumentError("inputs[0].contents", "elements", "none beside raw_input_contents")
    size = count * DTYPES[wanted.datatype].itemsize
    if len(raw[0]) != size:
        raise InvalidArgumentError(
            "raw_input_contents[0]", f"{len(raw[0])} bytes", f"{size}, as the shape says"
        )
    return np.frombuffer(raw[0], DTYPES[wanted.datatype])


def _tokens(ids: NDArray[np.int32], vocabulary_size: int) -> NDArray[np.uint32]:
    wrong = (ids < 0) | (ids >= vocabulary_size)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise InvalidArgumentError(
            f"tokens[{index}]", str(ids[index]), f"from 0 to less than {vocabulary_size}, the vocabulary size"
        )
    return ids.astype(np.uint32)


def _features(values: NDArray[np.float32]) -> NDArray[np.float32]:
    wrong = ~(np.abs(values) <= MAX_FEATURE)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise InvalidArgumentError(
            f"features[{index}]", str(values[index]), f"a magnitude of at most {MAX_FEATURE:g}"
        )
    return values.astype(np.float32)


def _check_no_memory(name: str, parameters: Any) -> None:
    if "shared_memory_region" in parameters:
        raise UnsupportedError(f"shared memory for tensor {name[:100]!r}", "send the elements in the message")
    if "classification" in parameters:
        raise UnsupportedError(f"classes for tensor {name[:100]!r}", "ask for the tensor itself")


def _size(part: Any) -> int:
    return int(part.size)
