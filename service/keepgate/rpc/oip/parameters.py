"""The parameters of a ModelInferRequest: what may be asked for, and of which type. docs/oip.md lists them.

Raises InvalidArgumentError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keepgate_kernels import Sampling
from keepgate_protos.oip import grpc_service_pb2 as pb
from keepgate_protos.v1 import sequences_pb2

from keepgate.errors import InvalidArgumentError
from keepgate.models.registry import LoadedModel
from keepgate.request import GREEDY
from keepgate.rpc.convert import sampling_from

BOOL = ("bool_param",)
INTEGER = ("int64_param", "uint64_param")
NUMBER = ("double_param", *INTEGER)
SEQUENCE = ("int64_param", "string_param")
TYPES: Mapping[str, tuple[str, ...]] = {
    "sequence_id": SEQUENCE,
    "sequence_start": BOOL,
    "sequence_end": BOOL,
    "priority": INTEGER,
    "timeout": INTEGER,
    "temperature": NUMBER,
    "top_k": INTEGER,
    "top_p": NUMBER,
    "seed": INTEGER,
    "keepgate_position": INTEGER,
    "keepgate_last_only": BOOL,
    "triton_enable_empty_final_response": BOOL,
    "triton_grpc_error": BOOL,
}
RESERVED = ("triton_", "keepgate_")
"""Beginnings of names of which an unknown one is refused; others are let pass, as Triton does."""
SAMPLING_BITS = {"top_k": 32, "seed": 64}


@dataclass(frozen=True, slots=True)
class Parameters:
    """sequence: 0 or "" is none. timeout: microseconds, 0 is none. sampling: as it was given, by name."""

    sequence: int | str
    start: bool
    end: bool
    timeout: int
    position: int | None
    last_only: bool
    grpc_error: bool
    sampling: Mapping[str, float]

    def sampling_of(self, model: LoadedModel) -> Sampling:
        """Raises InvalidArgumentError, also if the model draws no tokens."""
        if not self.sampling:
            return GREEDY
        message = sequences_pb2.Sampling(**dict(self.sampling))  # type: ignore[arg-type]
        return sampling_from(message, model, "parameters")


def parameters_from(request: pb.ModelInferRequest) -> Parameters:
    """Of a request."""
    values = {name: _value(name, given) for name, given in request.parameters.items()}
    parameters = Parameters(
        sequence=values.get("sequence_id", 0),
        start=values.get("sequence_start", False),
        end=values.get("sequence_end", False),
        timeout=_unsigned(values, "timeout", 64) or 0,
        position=_unsigned(values, "keepgate_position", 64),
        last_only=values.get("keepgate_last_only", False),
        grpc_error=values.get("triton_grpc_error", False),
        sampling=_sampling(values),
    )
    _unsigned(values, "priority", 64)
    if parameters.sequence:
        if parameters.start and parameters.position:
            raise _fault("keepgate_position", str(parameters.position), "0 or nothing: sequence_start is set")
        return parameters
    for name, given in (("sequence_start", parameters.start), ("sequence_end", parameters.end)):
        if given:
            raise _fault(
                name,
                "true without a sequence_id",
                f"that inference requests to model '{request.model_name}' specify a non-zero or non-empty "
                "correlation ID",
            )
    if parameters.position is not None:
        raise _fault("keepgate_position", str(parameters.position), "nothing: no sequence_id is given")
    return parameters


def _value(name: str, given: pb.InferParameter) -> Any:
    choice = given.WhichOneof("parameter_choice")
    types = TYPES.get(name)
    if types is None:
        if name.startswith(RESERVED):
            known = ", ".join(each for each in TYPES if each.startswith(RESERVED))
            raise _fault(name[:100], "an unknown parameter of a reserved prefix", f"one of {known}")
        return None
    if choice is None or choice not in types:
        raise _fault(name, choice or "no value", " or ".join(types))
    return getattr(given, choice)


def _unsigned(values: Mapping[str, Any], name: str, bits: int) -> int | None:
    value = values.get(name)
    if value is not None and not 0 <= value < 1 << bits:
        raise _fault(name, str(value), f"an integer from 0 to 2**{bits} - 1")
    return None if value is None else int(value)


def _sampling(values: Mapping[str, Any]) -> Mapping[str, float]:
    given = {name: float(values[name]) for name in ("temperature", "top_p") if name in values}
    whole = {name: _unsigned(values, name, bits) for name, bits in SAMPLING_BITS.items()}
    return given | {name: value for name, value in whole.items() if value is not None}


def _fault(name: str, got: str, expected: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"parameters[{name!r}]", got, expected)
