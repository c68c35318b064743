"""Everything that can go wrong, in the terms of the domain. No transport codes: see `rpc.status`.

KeepgateError
├── ConfigError              a setting is missing, mistyped or out of range
│   └── PrecisionError           a precision is set for a model that is not there
├── LostDeviceError          the device that states are on has failed
├── ListenError              the address cannot be listened on
├── RepositoryError          no model of the repository could be loaded, or not the one asked for
├── ModelFileError           a model file is damaged or lies about itself
├── StoreError               the store of sessions cannot be reached, or cannot write
├── UnknownCharacterError    a text cannot be encoded
└── RequestError             a request was refused; the text is for the client
    ├── InvalidArgumentError     a field of the request is at fault
    ├── AccessError              the caller may not call this
    │   ├── TokenMissingError
    │   ├── TokenInvalidError
    │   ├── TokenExpiredError
    │   └── ScopeMissingError
    ├── ModelNotFoundError
    ├── ModelRefusedError        a model file, or the repository, cannot be taken
    ├── SessionGoneError         the request names a session that is not open
    │   ├── SessionNotFoundError     never opened, or so long ago that it is forgotten
    │   ├── SessionClosedError
    │   ├── SessionExpiredError
    │   ├── SessionLostError         its state was lost to a failure of the server
    │   └── SessionMovedError        another server has taken it over
    ├── SessionExistsError
    ├── PositionMismatchError
    ├── StepMismatchError
    ├── StepsLostError           the server's predecessor had applied steps that it did not store
    ├── NotRetainedError         the position is too long ago to go back to
    ├── SessionModelError        the session's model is not loaded, or has other weights
    ├── RetryLaterError          the same request may succeed after `retry_after` seconds
    │   ├── SessionInUseError
    │   ├── SessionBusyError         it has work in flight that must be over first
    │   ├── SessionElsewhereError    another server has it
    │   ├── StoreUnavailableError    nothing can be made durable at present
    │   ├── SessionsExhaustedError
    │   ├── StepsExhaustedError
    │   ├── CallsExhaustedError
    │   ├── QueueTimeoutError        it waited longer than it allowed
    │   ├── PrincipalSessionsExhaustedError
    │   ├── PrincipalCallsExhaustedError
    │   ├── DrainingError
    │   └── ConnectionAgedError      a stream ends, for its connection is old; another may follow at once
    ├── SequenceNotStartedError  a request of the Open Inference Protocol goes on with no live sequence
    ├── UnsupportedError         a part of that protocol that there is not
    ├── RepositoryControlError   models are loaded and unloaded by the operator alone
    ├── ComputationError         the computation failed; the server's log says why
    └── NotFiniteError           the state has overflowed; its session is lost
"""

from keepgate.errors.access import (
    AccessError,
    PrincipalCallsExhaustedError,
    PrincipalSessionsExhaustedError,
    ScopeMissingError,
    TokenExpiredError,
    TokenInvalidError,
    TokenMissingError,
)
from keepgate.errors.base import (
    CallsExhaustedError,
    ComputationError,
    ConfigError,
    ConnectionAgedError,
    DrainingError,
    InvalidArgumentError,
    KeepgateError,
    ListenError,
    LostDeviceError,
    ModelFileError,
    ModelNotFoundError,
    ModelRefusedError,
    NotFiniteError,
    PrecisionError,
    RepositoryError,
    RequestError,
    RetryLaterError,
    StepsExhaustedError,
    StoreError,
    UnknownCharacterError,
)
from keepgate.errors.oip import (
    QueueTimeoutError,
    RepositoryControlError,
    SequenceNotStartedError,
    UnsupportedError,
)
from keepgate.errors.sessions import (
    NotRetainedError,
    PositionMismatchError,
    SessionBusyError,
    SessionClosedError,
    SessionElsewhereError,
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
    StepsLostError,
    StoreUnavailableError,
)

__all__ = [
    "AccessError",
    "CallsExhaustedError",
    "ComputationError",
    "ConfigError",
    "ConnectionAgedError",
    "DrainingError",
    "InvalidArgumentError",
    "KeepgateError",
    "ListenError",
    "LostDeviceError",
    "ModelFileError",
    "ModelNotFoundError",
    "ModelRefusedError",
    "NotFiniteError",
    "NotRetainedError",
    "PositionMismatchError",
    "PrecisionError",
    "PrincipalCallsExhaustedError",
    "PrincipalSessionsExhaustedError",
    "QueueTimeoutError",
    "RepositoryControlError",
    "RepositoryError",
    "RequestError",
    "RetryLaterError",
    "ScopeMissingError",
    "SequenceNotStartedError",
    "SessionBusyError",
    "SessionClosedError",
    "SessionElsewhereError",
    "SessionExistsError",
    "SessionExpiredError",
    "SessionGoneError",
    "SessionInUseError",
    "SessionLostError",
    "SessionModelError",
    "SessionMovedError",
    "SessionNotFoundError",
    "SessionsExhaustedError",
    "StepMismatchError",
    "StepsExhaustedError",
    "StepsLostError",
    "StoreError",
    "StoreUnavailableError",
    "TokenExpiredError",
    "TokenInvalidError",
    "TokenMissingError",
    "UnknownCharacterError",
    "UnsupportedError",
]
