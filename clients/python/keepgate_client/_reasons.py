"""Which error a reason of the server becomes."""

from __future__ import annotations

from collections.abc import Mapping

from keepgate_client.errors import (
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
    ServerError,
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
    WorkInFlightError,
)

REASONS: Mapping[str, type[ServerError]] = {
    "MODEL_NOT_FOUND": ModelNotFoundError,
    "MODEL_REFUSED": ModelRefusedError,
    "SESSION_NOT_FOUND": SessionNotFoundError,
    "SESSION_CLOSED": SessionClosedError,
    "SESSION_EXPIRED": SessionExpiredError,
    "SESSION_LOST": SessionLostError,
    "SESSION_MOVED": SessionMovedError,
    "SESSION_EXISTS": SessionExistsError,
    "POSITION_MISMATCH": PositionMismatchError,
    "STEP_MISMATCH": StepMismatchError,
    "STEPS_LOST": StepsLostError,
    "NOT_RETAINED": NotRetainedError,
    "SESSION_MODEL": SessionModelError,
    "SESSION_IN_USE": SessionInUseError,
    "SESSION_BUSY": WorkInFlightError,
    "SESSION_ELSEWHERE": SessionElsewhereError,
    "STORE_UNAVAILABLE": StoreUnavailableError,
    "INVALID_ARGUMENT": InvalidArgumentError,
    "SESSIONS_EXHAUSTED": SessionsExhaustedError,
    "STEPS_EXHAUSTED": StepsExhaustedError,
    "CALLS_EXHAUSTED": CallsExhaustedError,
    "DRAINING": DrainingError,
    "CONNECTION_AGED": ConnectionAgedError,
    "COMPUTATION_FAILED": ComputationError,
    "NOT_FINITE": NotFiniteError,
}
"""The reasons of docs/protocol.md; one that a newer server adds becomes a plain ServerError."""
