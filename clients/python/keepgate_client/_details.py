"""The details of a refusal, parsed: google.rpc's messages as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field at fault. `field` is its path in the request, as in "inputs.tokens.ids[3]"."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Resource:
    """What is not there, or there already. `kind` is "session" or "model"."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Precondition:
    """What does not hold. `kind` is the reason, `subject` as in "session/poem"."""

    kind: str
    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit that is reached. `subject` is what it is on, as in "model/letters/1" or "server"."""

    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a server told beside the reason, empty where it told nothing. retry_after: seconds."""

    retry_after: float | None = None
    violations: tuple[FieldViolation, ...] = ()
    resource: Resource | None = None
    preconditions: tuple[Precondition, ...] = ()
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """Reason, domain and metadata of ErrorInfo, and the other details."""

    domain: str
    reason: str
    metadata: dict[str, str]
    details: ErrorDetails


def parse(status: status_pb2.Status) -> Parsed:
    """A google.rpc.Status taken apart. Details of kinds that are unknown here, or damaged, are left out."""
    domain, reason, metadata = "", "", {}
    found: dict[str, Any] = {}
    for detail in status.details:
        name = detail.type_url.rpartition("/")[2].removeprefix("google.rpc.")
        kind = _KINDS.get(name)
        if kind is None:
            continue
        try:
            message = kind.FromString(detail.value)
        except DecodeError:
            continue
        match name:
            case "ErrorInfo":
                domain, reason, metadata = message.domain, message.reason, dict(message.metadata)
            case "RetryInfo":
                found["retry_after"] = message.retry_delay.seconds + message.retry_delay.nanos * 1e-9
            case "BadRequest":
                found["violations"] = tuple(
                    FieldViolation(v.field, v.description) for v in message.field_violations
                )
            case "ResourceInfo":
                found["resource"] = Resource(message.resource_type, message.resource_name)
            case "PreconditionFailure":
                found["preconditions"] = tuple(
                    Precondition(v.type, v.subject, v.description) for v in message.violations
                )
            case "QuotaFailure":
                found["quotas"] = tuple(Quota(v.subject, v.description) for v in message.violations)
    return Parsed(domain, reason, metadata, ErrorDetails(**found))


_KINDS: dict[str, Any] = {
    name: getattr(error_details_pb2, name)
    for name in (
        "ErrorInfo",
        "RetryInfo",
        "BadRequest",
        "ResourceInfo",
        "PreconditionFailure",
        "QuotaFailure",
    )
}
