"""What the server tells of sessions and models, from protocol buffers to Python. No I/O."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from keepgate_protos.v1 import models_pb2, sequences_pb2

from keepgate_client import types

_DURABILITIES: dict[types.Durability, sequences_pb2.Durability] = {
    types.Durability.NONE: sequences_pb2.DURABILITY_NONE,
    types.Durability.EVERYSEC: sequences_pb2.DURABILITY_EVERYSEC,
    types.Durability.ALWAYS: sequences_pb2.DURABILITY_ALWAYS,
}
_RESIDENCIES: dict[int, types.Residency] = {
    sequences_pb2.RESIDENCY_RESIDENT: types.Residency.RESIDENT,
    sequences_pb2.RESIDENCY_MEMORY: types.Residency.MEMORY,
    sequences_pb2.RESIDENCY_STORE: types.Residency.STORE,
}


def durability_to_proto(durability: types.DurabilityName | None) -> sequences_pb2.Durability:
    """None leaves it to the server. Raises ValueError."""
    if durability is None:
        return sequences_pb2.DURABILITY_UNSPECIFIED
    try:
        return _DURABILITIES[types.Durability(durability)]
    except ValueError:
        raise ValueError(
            f"durability: got {durability!r}, expected 'none', 'everysec', 'always' or None"
        ) from None


def session_from_proto(session: sequences_pb2.Session, *, described: bool = False) -> types.SessionInfo:
    """What the server knows of a session. described: by Describe, which tells the oldest position."""
    durabilities = {value: name for name, value in _DURABILITIES.items()}
    return types.SessionInfo(
        session_id=session.session_id,
        model=session.model,
        version=session.version,
        position=session.position,
        created=_datetime(session.created),
        last_used=_datetime(session.last_used),
        idle_ttl=session.idle_ttl.ToTimedelta(),
        durability=durabilities.get(session.durability),
        durable_position=session.durable_position,
        residency=_RESIDENCIES.get(session.residency),
        oldest_position=session.oldest_position if described else None,
    )


def _datetime(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)


def model_from_proto(model: models_pb2.Model) -> types.ModelInfo:
    """A loaded model."""
    source: types.TokenInputInfo | types.FeatureInputInfo
    if model.WhichOneof("input") == "feature_input":
        source = types.FeatureInputInfo(model.feature_input.size)
    else:
        token = model.token_input
        source = types.TokenInputInfo(
            token.vocabulary_size, token.embedding_size, token.tokenizer, tuple(token.vocabulary)
        )
    head: types.CategoricalHeadInfo | types.LinearHeadInfo
    if model.WhichOneof("head") == "linear_head":
        head = types.LinearHeadInfo(model.linear_head.size)
    else:
        head = types.CategoricalHeadInfo(model.categorical_head.size)
    layers = tuple(
        types.LayerInfo(x.cell, x.hidden_size, x.projection_size, x.peepholes, x.cell_clip)
        for x in model.layers
    )
    return types.ModelInfo(
        name=model.name,
        version=model.version,
        input=source,
        layers=layers,
        head=head,
        parameters=model.parameters,
        file_bytes=model.file_bytes,
        precision=model.precision,
        weight_bytes=model.weight_bytes,
        device=model.device,
        precisions=tuple(types.PrecisionInfo(x.precision, x.weight_bytes) for x in model.precisions),
        state_bytes=model.state_bytes,
        fingerprint=model.fingerprint,
        sessions=model.sessions,
        description=model.description,
        source=model.source,
        licence=model.licence,
        retired=model.condition == models_pb2.CONDITION_RETIRED,
    )
