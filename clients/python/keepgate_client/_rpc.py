"""Methods, channel options, and typed errors from gRPC failures: all about gRPC that does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2  # type: ignore[import-untyped]
from keepgate_protos.v1 import models_pb2, sequences_pb2

from keepgate_client import errors
from keepgate_client._access import Metadata
from keepgate_client._details import parse
from keepgate_client._reasons import REASONS
from keepgate_client.errors import KeepgateError

DOMAIN = "keepgate"
"""ErrorInfo.domain of every Keepgate server."""
_STATUS_KEY = "grpc-status-details-bin"

MAX_MESSAGE_BYTES = 64 << 20
"""Largest answer taken: the logits of a million tokens are 4 MiB, gRPC's own limit."""

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """One RPC: its path and the types of request and response."""

    path: str
    request: type[Q]
    response: type[R]

    def of(self, make: Callable[..., Any], metadata: Metadata | None = None) -> Callable[..., Any]:
        """The callable that `make`, as channel.unary_unary, returns for this method.

        metadata: of every call.
        """
        serialize = cast("Callable[[Q], bytes]", self.request.SerializeToString)
        call = cast(
            "Callable[..., Any]",
            make(
                self.path,
                request_serializer=serialize,
                response_deserializer=self.response.FromString,
            ),
        )
        return call if metadata is None else partial(call, metadata=metadata)


_SEQUENCES = "keepgate.v1.Sequences"
_MODELS = "keepgate.v1.Models"

OPEN = Method(f"/{_SEQUENCES}/Open", sequences_pb2.OpenRequest, sequences_pb2.OpenResponse)
STEP = Method(f"/{_SEQUENCES}/Step", sequences_pb2.StepRequest, sequences_pb2.StepResponse)
SCORE = Method(f"/{_SEQUENCES}/Score", sequences_pb2.ScoreRequest, sequences_pb2.ScoreResponse)
DESCRIBE = Method(f"/{_SEQUENCES}/Describe", sequences_pb2.DescribeRequest, sequences_pb2.DescribeResponse)
LIST = Method(f"/{_SEQUENCES}/List", sequences_pb2.ListRequest, sequences_pb2.ListResponse)
CLOSE = Method(f"/{_SEQUENCES}/Close", sequences_pb2.CloseRequest, sequences_pb2.CloseResponse)
FORK = Method(f"/{_SEQUENCES}/Fork", sequences_pb2.ForkRequest, sequences_pb2.ForkResponse)
REWIND = Method(f"/{_SEQUENCES}/Rewind", sequences_pb2.RewindRequest, sequences_pb2.RewindResponse)
EXPORT = Method(f"/{_SEQUENCES}/Export", sequences_pb2.ExportRequest, sequences_pb2.ExportResponse)
IMPORT = Method(f"/{_SEQUENCES}/Import", sequences_pb2.ImportRequest, sequences_pb2.ImportResponse)
LIST_MODELS = Method(f"/{_MODELS}/List", models_pb2.ListModelsRequest, models_pb2.ListModelsResponse)
DESCRIBE_MODEL = Method(
    f"/{_MODELS}/Describe", models_pb2.DescribeModelRequest, models_pb2.DescribeModelResponse
)
STREAM = Method(f"/{_SEQUENCES}/Stream", sequences_pb2.StreamRequest, sequences_pb2.StreamResponse)
STREAM_FRAMES = Method(
    f"/{_SEQUENCES}/StreamFrames", sequences_pb2.FramesRequest, sequences_pb2.FramesResponse
)
GENERATE = Method(f"/{_SEQUENCES}/Generate", sequences_pb2.GenerateRequest, sequences_pb2.GenerateResponse)

UNARY: tuple[Method[Any, Any], ...] = (
    OPEN,
    STEP,
    SCORE,
    DESCRIBE,
    LIST,
    CLOSE,
    FORK,
    REWIND,
    EXPORT,
    IMPORT,
    LIST_MODELS,
    DESCRIBE_MODEL,
)

ChannelOptions: TypeAlias = list[tuple[str, Any]]


def channel_options(extra: Iterable[tuple[str, Any]] = ()) -> ChannelOptions:
    """Options of every channel; `extra` goes last and wins."""
    options: dict[str, Any] = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        # gRPC waits 1 s before its first reconnect and up to 2 min later on; meanwhile every call
        # fails at once. Short waits let the retries of `RetryPolicy` find a server that came back.
        # No service config: gRPC's own retries would multiply with those.
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.min_reconnect_backoff_ms": 5000,  # despite its name, the patience with one attempt
        "grpc.max_reconnect_backoff_ms": 1000,
        # Channels of one process to one address would otherwise share a connection, and with it
        # each other's backoff and flow control.
        "grpc.use_local_subchannel_pool": 1,
    }
    options.update(extra)
    return list(options.items())


class FailedCall(Protocol):
    """What sync and asyncio errors of gRPC have in common."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Any: ...


def error_from_call(call: FailedCall, target: str) -> KeepgateError:
    """The typed error of a failed call to `target`."""
    for key, value in call.trailing_metadata() or ():
        if key == _STATUS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break
            if error := _error_from_details(status, call.code()):
                return error
    return _transport_error(call.code(), call.details() or "", target)


_WRITE_FAILED = "Internal error from Core"
"""What grpc.aio reports instead of the real status if it was writing to a stream when the connection
broke: https://github.com/grpc/grpc/issues/36066"""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def error_from_status(status: status_pb2.Status) -> KeepgateError:
    """The typed error of a step refused within a stream."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    error = _error_from_details(status, code)
    return error or errors.ServerError(status.message or code.name, code=code)


def _error_from_details(status: status_pb2.Status, code: grpc.StatusCode) -> errors.ServerError | None:
    told = parse(status)
    if told.domain != DOMAIN:
        return None
    kind = REASONS.get(told.reason, errors.ServerError)
    return kind(
        status.message or told.reason,
        code=code,
        reason=told.reason,
        metadata=told.metadata,
        details=told.details,
    )


def _transport_error(code: grpc.StatusCode, details: str, target: str) -> KeepgateError:
    if code is grpc.StatusCode.INTERNAL and details == _WRITE_FAILED:
        code, details = grpc.StatusCode.UNAVAILABLE, "the connection broke"
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.UnreachableError(f"{target} is not reachable: {details}", code=code)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceededError(f"no answer from {target} within the timeout", code=code)
        case grpc.StatusCode.CANCELLED:
            return errors.CallCancelledError(f"call to {target} was cancelled: {details}", code=code)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.MessageTooLargeError(f"{target}: {details}", code=code)
        case _:
            return errors.UnexpectedStatusError(f"{target}: {code.name}: {details}", code=code)
