"""The details of an error beside its ErrorInfo, for programs: https://google.aip.dev/193.

BadRequest where a field is at fault, RetryInfo where waiting helps, ResourceInfo for what is not there or
there already, PreconditionFailure and QuotaFailure for the codes that they explain.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from keepgate.errors import InvalidArgumentError, RequestError, RetryLaterError

RESOURCES = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS}
SERVER = "server"
"""The subject where neither a session nor a model is."""


def details_of(error: RequestError, code: grpc.StatusCode) -> Iterator[Message]:
    """All but ErrorInfo. Descriptions repeat the error's text, which is kept short."""
    if isinstance(error, InvalidArgumentError):
        field = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        yield error_details_pb2.BadRequest(field_violations=[field])
    if isinstance(error, RetryLaterError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        yield error_details_pb2.RetryInfo(retry_delay=delay)
    kind, name = _subject(error)
    if code in RESOURCES and name:
        yield error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name)
    subject = f"{kind}/{name}" if name else kind
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        unmet = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=subject, description=str(error)
        )
        yield error_details_pb2.PreconditionFailure(violations=[unmet])
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=str(error))
        yield error_details_pb2.QuotaFailure(violations=[quota])


def _subject(error: RequestError) -> tuple[str, str]:
    """Whether an error is about a session, a model or the server, and the name of that."""
    told = error.metadata
    if session_id := told.get("session_id"):
        return "session", session_id
    if model := told.get("model"):
        version = told.get("version")
        return "model", f"{model}/{version}" if version else model
    return SERVER, ""
