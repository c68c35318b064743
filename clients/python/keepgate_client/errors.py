"""What a call can raise. Every class is exported by `keepgate_client`.

KeepgateError                         everything below; has code, reason, metadata, retry_after
├── SessionBusyError                  two calls on one session at the same time; nothing was sent
├── StepSkippedError                  an earlier step of the session on the stream failed; not applied
├── AnswerLostError                   applied, but the answer is lost, and the server retains no such step
├── TransportError                    no answer of a Keepgate server
│   ├── UnreachableError              no connection, or it broke, and retrying did not help
│   ├── DeadlineExceededError         the timeout passed; also a TimeoutError
│   ├── CallCancelledError            the call was cancelled, or its client or stream closed
│   ├── MessageTooLargeError          a message is over the server's or the client's limit
│   └── UnexpectedStatusError         any other gRPC status without a Keepgate reason
└── ServerError                       the server refused; nothing was applied
    ├── InvalidArgumentError          a field is at fault; also a ValueError
    ├── AccessError                   the caller may not make this call
    │   ├── TokenMissingError, TokenInvalidError, TokenExpiredError
    │   └── ScopeMissingError         the token is good for other calls
    ├── ModelNotFoundError, ModelRefusedError
    ├── SessionError                  about one session, `session_id`
    │   ├── SessionGoneError          it is not open on this server
    │   │   ├── SessionNotFoundError  it never was, or so long ago that the server forgot
    │   │   ├── SessionClosedError, SessionExpiredError
    │   │   ├── SessionLostError      a failure of the server took its state
    │   │   └── SessionMovedError     another server has taken it over
    │   ├── SessionExistsError        a session_id that is taken
    │   ├── SessionInUseError         it belongs to another open stream
    │   ├── SessionElsewhereError     another server that lives has it
    │   ├── WorkInFlightError         it has steps in flight that must be over first
    │   ├── PositionError             the step's position is not where the session is
    │   │   ├── PositionMismatchError     nor is it that of a step that it retains
    │   │   ├── StepMismatchError     a step applied before came again, but changed
    │   │   └── StepsLostError        the server stopped before it stored the last steps; send them again
    │   ├── NotRetainedError          rewind() further back than the session remembers
    │   └── SessionModelError         its model is not loaded any more, or has other weights
    ├── ExhaustedError                a limit of the server is reached
    │   └── SessionsExhaustedError, StepsExhaustedError, CallsExhaustedError
    ├── DrainingError                 the server is shutting down
    ├── ConnectionAgedError           a stream ended because its connection is old; the client opens another
    ├── StoreUnavailableError         nothing can be made durable at present
    ├── ComputationError              the computation failed; the server's log says why
    └── NotFiniteError                the session's state overflowed, and the session is lost

Calling a session's method again with the same arguments is safe after any of these: the session sends
its position, so the step is applied once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpc import StatusCode

from keepgate_client._details import ErrorDetails, FieldViolation


class KeepgateError(Exception):
    """Base of all errors of this client.

    message: what happened, in words.
    code: the gRPC status code.
    reason: the machine-readable reason, as "POSITION_MISMATCH"; empty where the server gave none.
    metadata: what the server told beside the reason.
    details: all else that it told, parsed.
    retry_after: seconds after which the server suggests to try again, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode = StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        details: ErrorDetails | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.details = details or ErrorDetails(retry_after=retry_after)

    @property
    def retry_after(self) -> float | None:
        return self.details.retry_after

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """The fields at fault."""
        return self.details.violations

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling would call the class without the keyword arguments.
        return (type(self), (self.message,), self.__dict__)

    def _number(self, key: str) -> int | None:
        text = self.metadata.get(key, "")
        return int(text) if text.isdecimal() else None


class SessionBusyError(KeepgateError, RuntimeError):
    """A session takes one call at a time. To send steps ahead of their answers, use a stream."""


class StepSkippedError(KeepgateError):
    """Not applied: an earlier step of the session on the same stream failed. `__cause__` is its error."""


class AnswerLostError(KeepgateError):
    """Applied once, but its answer was lost with the connection, and later steps came after it.

    Only on a stream whose window is larger than what the server retains of a session (`retained_steps`).
    """


class TransportError(KeepgateError):
    """No answer of a Keepgate server. Whether a step was applied is unknown: send it again."""


class UnreachableError(TransportError):
    """No connection to the server, or it broke, and retrying did not help."""


class DeadlineExceededError(TransportError, TimeoutError):
    """The timeout passed before the answer came."""


class CallCancelledError(TransportError):
    """The call was cancelled, or its client or stream was closed."""


class MessageTooLargeError(TransportError):
    """A message is larger than the server or the client takes; nothing was applied."""


class UnexpectedStatusError(TransportError):
    """A gRPC status that carries no Keepgate reason; `code` tells which."""


class ServerError(KeepgateError):
    """The server refused the request; nothing was applied. `reason` tells why."""


class AccessError(ServerError):
    """The caller may not make this call. The subclass tells why."""


class TokenMissingError(AccessError):
    """The server wants a token: `Client(token=...)`."""


class TokenInvalidError(AccessError):
    """The server does not know the token."""


class TokenExpiredError(AccessError):
    """The token was good until its time."""


class ScopeMissingError(AccessError):
    """The token is good, but not for this call, which needs `metadata["scope"]`."""


class ModelNotFoundError(ServerError):
    """No such model, or no such version of it, is loaded."""

    @property
    def model(self) -> str:
        """Name of the model asked for."""
        return self.metadata.get("model", "")


class ModelRefusedError(ServerError):
    """A model file, or the repository, cannot be taken; what was loaded before goes on serving."""


class SessionError(ServerError):
    """About one session. The subclass tells what."""

    @property
    def session_id(self) -> str:
        """The session that the request named."""
        return self.metadata.get("session_id", "")


class SessionGoneError(SessionError):
    """The session is not open on this server. The subclass tells why."""


class SessionNotFoundError(SessionGoneError):
    """The server knows no session of this id."""


class SessionClosedError(SessionGoneError):
    """The session was closed."""


class SessionExpiredError(SessionGoneError):
    """The session was idle for longer than its idle_ttl."""


class SessionLostError(SessionGoneError):
    """A failure of the server took the session's state."""


class SessionMovedError(SessionGoneError):
    """Another server has taken the session over; `attach` finds it there."""


class SessionExistsError(SessionError):
    """A session of this id is open already. `attach` takes it up."""


class PositionError(SessionError):
    """The position that a request names is not where the session is. The subclass tells why."""

    @property
    def expected_position(self) -> int | None:
        """The session's position on the server."""
        return self._number("expected_position")

    @property
    def position(self) -> int | None:
        """The position that the request named."""
        return self._number("position")


class PositionMismatchError(PositionError):
    """The step's position is neither the session's nor that of a step that it retains."""


class StepMismatchError(PositionError):
    """A step applied before came again with other inputs or options, so no answer fits."""


class StepsLostError(PositionError):
    """The server stopped before it had stored the last steps: durability "everysec".

    The session object stands at `expected_position` now. Send the inputs again that came after it.
    """


class NotRetainedError(SessionError):
    """A session can be taken back to the positions that it retains, not further."""

    @property
    def position(self) -> int | None:
        """The position that the request named."""
        return self._number("position")

    @property
    def oldest_position(self) -> int | None:
        """The first position that `rewind` takes."""
        return self._number("oldest_position")

    @property
    def newest_position(self) -> int | None:
        """The session's position on the server, the last that `rewind` takes."""
        return self._number("newest_position")


class SessionModelError(SessionError):
    """A stored session cannot go on: its model is not loaded, or has other weights. It stays stored."""

    @property
    def model(self) -> str:
        """Name of the session's model."""
        return self.metadata.get("model", "")

    @property
    def version(self) -> str:
        """Version of the model that the session was opened on."""
        return self.metadata.get("version", "")


class SessionInUseError(SessionError):
    """The session belongs to another open stream until that ends."""


class SessionElsewhereError(SessionError):
    """Another server that lives has the session. `retry_after` says when to ask again."""


class WorkInFlightError(SessionError):
    """The session has steps in flight: `fork`, `rewind` and `export` take a session at rest."""


class InvalidArgumentError(ServerError, ValueError):
    """The request is at fault. `violations` names the fields."""


class ExhaustedError(ServerError):
    """A limit of the server is reached. `retry_after` says when to try again."""


class SessionsExhaustedError(ExhaustedError):
    """The server holds as many sessions as it may, or as many of this caller's."""


class StepsExhaustedError(ExhaustedError):
    """As many steps wait as may."""


class CallsExhaustedError(ExhaustedError):
    """The server serves as many calls at once as it may, or as many of this caller's."""


class DrainingError(ServerError):
    """The server is shutting down and takes no new work."""


class ConnectionAgedError(ServerError):
    """A stream ended because its connection is old. Raised only where no retry is allowed."""


class StoreUnavailableError(ServerError):
    """The server's store cannot be used at present, so nothing can be made durable."""


class ComputationError(ServerError):
    """A computation failed in the server. Its log says why."""


class NotFiniteError(ServerError):
    """The prediction is infinite or not a number: the state has overflowed, and the session is lost."""
