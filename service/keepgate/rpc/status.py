"""Domain errors to gRPC status: the one table. ErrorInfo is on every error (domain "keepgate"), what else
there is comes from `details`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from keepgate_kernels.errors import DeviceLostError

from keepgate.errors import (
    CallsExhaustedError,
    ComputationError,
    ConnectionAgedError,
    DrainingError,
    InvalidArgumentError,
    ModelNotFoundError,
    ModelRefusedError,
    NotFiniteError,
    NotRetainedError,
    PositionMismatchError,
    PrincipalCallsExhaustedError,
    PrincipalSessionsExhaustedError,
    QueueTimeoutError,
    RepositoryControlError,
    RequestError,
    ScopeMissingError,
    SequenceNotStartedError,
    SessionBusyError,
    SessionClosedError,
    SessionElsewhereError,
    SessionExistsError,
    SessionExpiredError,
    SessionInUseError,
    SessionLostError,
    SessionModelError,
    SessionMovedError,
    SessionNotFoundError,
    SessionsExhaustedError,
    StepMismatchError,
    StepsExhaustedError,
    StepsLostError,
    StoreUnavailableError,
    TokenExpiredError,
    TokenInvalidError,
    TokenMissingError,
    UnsupportedError,
)
from keepgate.rpc.details import details_of
from keepgate.telemetry.calls import REQUEST_ID, Call, current

DOMAIN = "keepgate"
INTERNAL_REASON = "INTERNAL"
REQUEST_ID_BYTES = 8

log = structlog.get_logger(__name__)

CODES: Mapping[type[RequestError], grpc.StatusCode] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    TokenMissingError: grpc.StatusCode.UNAUTHENTICATED,
    TokenInvalidError: grpc.StatusCode.UNAUTHENTICATED,
    TokenExpiredError: grpc.StatusCode.UNAUTHENTICATED,
    ScopeMissingError: grpc.StatusCode.PERMISSION_DENIED,
    ModelNotFoundError: grpc.StatusCode.NOT_FOUND,
    ModelRefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    SessionNotFoundError: grpc.StatusCode.NOT_FOUND,
    SessionClosedError: grpc.StatusCode.NOT_FOUND,
    SessionExpiredError: grpc.StatusCode.NOT_FOUND,
    SessionLostError: grpc.StatusCode.NOT_FOUND,
    SessionMovedError: grpc.StatusCode.NOT_FOUND,
    SessionExistsError: grpc.StatusCode.ALREADY_EXISTS,
    PositionMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    StepMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    StepsLostError: grpc.StatusCode.FAILED_PRECONDITION,
    NotRetainedError: grpc.StatusCode.OUT_OF_RANGE,
    SessionModelError: grpc.StatusCode.FAILED_PRECONDITION,
    SessionInUseError: grpc.StatusCode.ABORTED,
    SessionBusyError: grpc.StatusCode.ABORTED,
    SessionElsewhereError: grpc.StatusCode.UNAVAILABLE,
    StoreUnavailableError: grpc.StatusCode.UNAVAILABLE,
    SessionsExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StepsExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CallsExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PrincipalSessionsExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PrincipalCallsExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DrainingError: grpc.StatusCode.UNAVAILABLE,
    ConnectionAgedError: grpc.StatusCode.UNAVAILABLE,
    ComputationError: grpc.StatusCode.INTERNAL,
    NotFiniteError: grpc.StatusCode.OUT_OF_RANGE,
    SequenceNotStartedError: grpc.StatusCode.INVALID_ARGUMENT,
    QueueTimeoutError: grpc.StatusCode.UNAVAILABLE,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    RepositoryControlError: grpc.StatusCode.PERMISSION_DENIED,
}


def to_status(error: RequestError, call: Call | None = None) -> status_pb2.Status:
    """A google.rpc.Status with details. It travels in trailers, or in-band in a stream.

    call: whose error it is; None for the one that this runs in.
    """
    status = _status(CODES[type(error)], str(error), error.reason, error.metadata)
    for detail in details_of(error, CODES[type(error)]):
        status.details.add().Pack(detail)
    return _noted(status, error.reason, call)


def internal_status(error: Exception, method: str, call: Call | None = None) -> status_pb2.Status:
    """For what nobody expected, a bug: the log gets the error, the client only where to look.

    If the device is lost, the server is about to stop, and says that.
    """
    if isinstance(error, DeviceLostError):
        return to_status(DrainingError(), call)
    call = call or current()
    request_id = call.request_id if call is not None else secrets.token_hex(REQUEST_ID_BYTES)
    log.error("call failed", method=method, request_id=request_id, exc_info=error)
    status = _status(
        grpc.StatusCode.INTERNAL,
        f"internal error; the server's log has it under request id {request_id}",
        INTERNAL_REASON,
        {"request_id": request_id},
    )
    return _noted(status, INTERNAL_REASON, call)


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: status_pb2.Status) -> NoReturn:
    """End the call with a status. Raises grpc.aio's AbortError."""
    plain = rpc_status.to_status(status)
    trailing = plain.trailing_metadata
    call = current()
    if call is not None:
        call.code = plain.code
        trailing = (*trailing, (REQUEST_ID, call.request_id))
    await context.abort(plain.code, plain.details, trailing)


def _noted(status: status_pb2.Status, reason: str, call: Call | None) -> status_pb2.Status:
    call = call or current()
    return status if call is None else call.noted(status, reason)


def _status(
    code: grpc.StatusCode, message: str, reason: str, metadata: Mapping[str, str]
) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    status.details.add().Pack(info)
    return status
