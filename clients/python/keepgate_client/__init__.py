"""Client of Keepgate, the server of gated recurrent networks.

    from keepgate_client import Client

    with Client("127.0.0.1:8001") as client, client.open("shakespeare-lstm") as session:
        for token in session.generate("ROMEO:", max_tokens=200, temperature=0.8):
            print(token.text, end="")

`AsyncClient` has the same names for asyncio. Errors: `keepgate_client.errors`.
"""

from importlib.metadata import version

from keepgate_client._access import TLS
from keepgate_client._details import ErrorDetails, FieldViolation, Precondition, Quota, Resource
from keepgate_client._frames import Frame
from keepgate_client._retry import RetryPolicy, service_config
from keepgate_client.aio import AsyncClient
from keepgate_client.aio_group import AsyncGroup
from keepgate_client.aio_session import AsyncSession
from keepgate_client.aio_stream import AsyncStream
from keepgate_client.client import Client
from keepgate_client.errors import (
    AccessError,
    AnswerLostError,
    CallCancelledError,
    CallsExhaustedError,
    ComputationError,
    ConnectionAgedError,
    DeadlineExceededError,
    DrainingError,
    ExhaustedError,
    InvalidArgumentError,
    KeepgateError,
    MessageTooLargeError,
    ModelNotFoundError,
    ModelRefusedError,
    NotFiniteError,
    NotRetainedError,
    PositionError,
    PositionMismatchError,
    ScopeMissingError,
    ServerError,
    SessionBusyError,
    SessionClosedError,
    SessionElsewhereError,
    SessionError,
    SessionExistsError,
    SessionExpiredError,
    SessionGoneError,
    SessionInUseError,
    SessionLostError,
    SessionModelError,
    SessionMovedError,
    SessionNotFoundError,
    SessionsExhaustedError,
    StepMismatchError,
    StepsExhaustedError,
    StepSkippedError,
    StepsLostError,
    StoreUnavailableError,
    TokenExpiredError,
    TokenInvalidError,
    TokenMissingError,
    TransportError,
    UnexpectedStatusError,
    UnreachableError,
    WorkInFlightError,
)
from keepgate_client.group import Group
from keepgate_client.session import Session
from keepgate_client.stream import Stream
from keepgate_client.types import (
    CategoricalHeadInfo,
    Durability,
    FeatureInputInfo,
    FinishReason,
    LayerInfo,
    LayerState,
    LinearHeadInfo,
    ModelInfo,
    PrecisionInfo,
    Prediction,
    Residency,
    Score,
    SessionInfo,
    Token,
    TokenInputInfo,
    TokenProbability,
)

__version__ = version("keepgate-client")

__all__ = [
    "TLS",
    "AccessError",
    "AnswerLostError",
    "AsyncClient",
    "AsyncGroup",
    "AsyncSession",
    "AsyncStream",
    "CallCancelledError",
    "CallsExhaustedError",
    "CategoricalHeadInfo",
    "Client",
    "ComputationError",
    "ConnectionAgedError",
    "DeadlineExceededError",
    "DrainingError",
    "Durability",
    "ErrorDetails",
    "ExhaustedError",
    "FeatureInputInfo",
    "FieldViolation",
    "FinishReason",
    "Frame",
    "Group",
    "InvalidArgumentError",
    "KeepgateError",
    "LayerInfo",
    "LayerState",
    "LinearHeadInfo",
    "MessageTooLargeError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelRefusedError",
    "NotFiniteError",
    "NotRetainedError",
    "PositionError",
    "PositionMismatchError",
    "PrecisionInfo",
    "Precondition",
    "Prediction",
    "Quota",
    "Residency",
    "Resource",
    "RetryPolicy",
    "ScopeMissingError",
    "Score",
    "ServerError",
    "Session",
    "SessionBusyError",
    "SessionClosedError",
    "SessionElsewhereError",
    "SessionError",
    "SessionExistsError",
    "SessionExpiredError",
    "SessionGoneError",
    "SessionInUseError",
    "SessionInfo",
    "SessionLostError",
    "SessionModelError",
    "SessionMovedError",
    "SessionNotFoundError",
    "SessionsExhaustedError",
    "StepMismatchError",
    "StepSkippedError",
    "StepsExhaustedError",
    "StepsLostError",
    "StoreUnavailableError",
    "Stream",
    "Token",
    "TokenExpiredError",
    "TokenInputInfo",
    "TokenInvalidError",
    "TokenMissingError",
    "TokenProbability",
    "TransportError",
    "UnexpectedStatusError",
    "UnreachableError",
    "WorkInFlightError",
    "__version__",
    "service_config",
]
