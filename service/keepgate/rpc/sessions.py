"""Between the messages of keepgate.v1 that are about whole sessions and the domain."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf import duration_pb2, timestamp_pb2
from keepgate_kernels.spec import ModelSpec
from keepgate_protos.v1 import sequences_pb2 as pb
from numpy.typing import NDArray

from keepgate.errors import InvalidArgumentError
from keepgate.models.registry import LoadedModel
from keepgate.sessions.durability import Durability
from keepgate.sessions.session import NO_SLOT, Session

NANOS = 1_000_000_000
DURABILITIES: Mapping[Durability, pb.Durability] = {
    Durability.NONE: pb.DURABILITY_NONE,
    Durability.EVERYSEC: pb.DURABILITY_EVERYSEC,
    Durability.ALWAYS: pb.DURABILITY_ALWAYS,
}
_DURABILITIES: Mapping[int, Durability] = {value: name for name, value in DURABILITIES.items()}


def ttl_from(request: pb.OpenRequest | pb.ForkRequest | pb.ImportRequest) -> float | None:
    """Seconds, or None if unset."""
    if not request.HasField("idle_ttl"):
        return None
    return float(request.idle_ttl.seconds) + request.idle_ttl.nanos / NANOS


def durability_from(value: int, has_store: bool) -> Durability | None:
    """None if unspecified. Raises InvalidArgumentError if there is no such level, or no store for it."""
    if value == pb.DURABILITY_UNSPECIFIED:
        return None
    durability = _DURABILITIES.get(value)
    if durability is None:
        raise InvalidArgumentError("durability", str(value), "a Durability: 0 to 3")
    if durability is not Durability.NONE and not has_store:
        raise InvalidArgumentError("durability", pb.Durability.Name(value), "NONE: this server has no store")
    return durability


def state_from(layers: Iterable[pb.LayerState], model: LoadedModel) -> bytes | None:
    """A state as `Slots.read` returns it; None if it is not given."""
    given = list(layers)
    if not given:
        return None
    spec = model.spec
    if len(given) != len(spec.layers):
        raise InvalidArgumentError(
            "initial_state", f"{len(given)} layers", f"{len(spec.layers)}, the model's"
        )
    parts: list[NDArray[np.float32]] = []
    for index, (state, layer) in enumerate(zip(given, spec.layers, strict=True)):
        field = f"initial_state[{index}]"
        limit = 1.0 if model.network.precision == "int8" and layer.is_bounded else math.inf
        parts.append(_numbers(state.h, layer.output_size, f"{field}.h", limit))
        parts.append(_numbers(state.c, layer.cell_state_size, f"{field}.c", math.inf))
    return np.concatenate(parts).astype("<f4", copy=False).tobytes()


def _numbers(values: Any, size: int, field: str, limit: float) -> NDArray[np.float32]:
    if len(values) != size:
        raise InvalidArgumentError(field, f"{len(values)} values", f"{size}, one a unit")
    numbers = np.array(values, np.float32)
    wrong = ~(np.abs(numbers) <= min(limit, float(np.finfo(np.float32).max)))
    if wrong.any():
        index = int(np.argmax(wrong))
        expected = "a finite number" if limit == math.inf else "from -1 to 1, where int8 has its scale"
        raise InvalidArgumentError(f"{field}[{index}]", f"{numbers[index]:g}", expected)
    return numbers


def state_to(state: bytes, spec: ModelSpec) -> Iterator[pb.LayerState]:
    """A message for each layer of a state as `Slots.read` returns it."""
    numbers = np.frombuffer(state, "<f4")
    first = 0
    for layer in spec.layers:
        middle = first + layer.output_size
        end = middle + layer.cell_state_size
        yield pb.LayerState(h=numbers[first:middle].tolist(), c=numbers[middle:end].tolist())
        first = end


def session_to(session: Session[Any], oldest: int = 0) -> pb.Session:
    """Times of the monotonic clock become times of day as of now. oldest: its oldest_position, if known."""
    offset = time.time() - time.monotonic()
    keeping = session.keeping
    durable = 0 if keeping.durability is Durability.NONE else keeping.durable
    return pb.Session(
        session_id=session.session_id,
        model=session.model.name,
        version=session.model.version,
        position=session.position,
        created=_timestamp(keeping.meta.created),
        last_used=_timestamp(session.last_used + offset),
        idle_ttl=_duration(session.ttl),
        durability=DURABILITIES[keeping.durability],
        durable_position=durable,
        oldest_position=oldest,
        residency=_residency(session),
    )


def _residency(session: Session[Any]) -> pb.Residency:
    if session.slot != NO_SLOT:
        return pb.RESIDENCY_RESIDENT
    return pb.RESIDENCY_STORE if session.keeping.history is None else pb.RESIDENCY_MEMORY


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    whole = math.floor(seconds)
    return timestamp_pb2.Timestamp(seconds=whole, nanos=int((seconds - whole) * NANOS))


def _duration(seconds: float) -> duration_pb2.Duration:
    whole = math.floor(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * NANOS))
