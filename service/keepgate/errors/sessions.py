"""Why a request on a session was refused."""

from __future__ import annotations

from typing import ClassVar

from keepgate.errors.base import RequestError, RetryLaterError


class SessionGoneError(RequestError):
    """The session is not open. The subclass tells why."""

    how: ClassVar[str]

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} {self.how}", session_id=session_id)


class SessionNotFoundError(SessionGoneError):
    reason = "SESSION_NOT_FOUND"
    how = "is unknown to this server"


class SessionClosedError(SessionGoneError):
    reason = "SESSION_CLOSED"
    how = "is closed"


class SessionExpiredError(SessionGoneError):
    reason = "SESSION_EXPIRED"
    how = "expired: no request came within its idle_ttl"


class SessionLostError(SessionGoneError):
    reason = "SESSION_LOST"
    how = "was lost: a computation failed and left its state undefined"


class SessionMovedError(SessionGoneError):
    reason = "SESSION_MOVED"
    how = "is not this server's any more: another server has taken it over"


class SessionExistsError(RequestError):
    reason = "SESSION_EXISTS"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} is open already", session_id=session_id)


class PositionMismatchError(RequestError):
    """The request's position is neither the session's nor that of the request applied last."""

    reason = "POSITION_MISMATCH"

    def __init__(self, session_id: str, position: int, expected: int) -> None:
        super().__init__(
            f"position: got {position}, expected {expected}, the position of session {session_id!r}",
            session_id=session_id,
            position=position,
            expected_position=expected,
        )


class StepMismatchError(RequestError):
    """The request applied last came again, but with other inputs or options."""

    reason = "STEP_MISMATCH"

    def __init__(self, session_id: str, position: int, expected: int) -> None:
        super().__init__(
            f"another request was applied to session {session_id!r} at position {position}: got "
            f"other inputs or options, expected the same for a retry, or position {expected} for "
            "the next step",
            session_id=session_id,
            position=position,
            expected_position=expected,
        )


class StepsLostError(RequestError):
    """The session was taken over from a server that had acknowledged more steps than it had stored."""

    reason = "STEPS_LOST"

    def __init__(self, session_id: str, position: int, expected: int) -> None:
        super().__init__(
            f"position: got {position}, but the steps of session {session_id!r} after position {expected} "
            f"were lost when its server stopped: expected {expected}, and the lost inputs again from there",
            session_id=session_id,
            position=position,
            expected_position=expected,
        )


class NotRetainedError(RequestError):
    """A session can go back a limited number of steps."""

    reason = "NOT_RETAINED"

    def __init__(self, session_id: str, position: int, oldest: int, newest: int) -> None:
        super().__init__(
            f"position: got {position}, expected {oldest} to {newest}, which session {session_id!r} retains",
            session_id=session_id,
            position=position,
            oldest_position=oldest,
            newest_position=newest,
        )


class SessionModelError(RequestError):
    """A stored session cannot go on here. It stays in the store."""

    reason = "SESSION_MODEL"

    def __init__(self, session_id: str, model: str, version: str, fault: str) -> None:
        super().__init__(
            f"session {session_id!r} was opened on model {model!r} version {version}, which {fault}",
            session_id=session_id,
            model=model,
            version=version,
        )


class SessionInUseError(RetryLaterError):
    reason = "SESSION_IN_USE"
    retry_after = 1.0

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"session {session_id!r} belongs to another open stream until that stream ends",
            session_id=session_id,
        )


class SessionBusyError(RetryLaterError):
    reason = "SESSION_BUSY"
    retry_after = 0.1

    def __init__(self, session_id: str, in_flight: int) -> None:
        super().__init__(
            f"session {session_id!r} has {in_flight} inputs in flight: expected a session at rest",
            session_id=session_id,
            in_flight=in_flight,
        )


class SessionElsewhereError(RetryLaterError):
    """Another server has the session. `retry_after`: when it may have given it up, if it is gone."""

    reason = "SESSION_ELSEWHERE"

    def __init__(self, session_id: str, retry_after: float) -> None:
        super().__init__(
            f"session {session_id!r} belongs to another server that lives", session_id=session_id
        )
        self.retry_after = retry_after


class StoreUnavailableError(RetryLaterError):
    reason = "STORE_UNAVAILABLE"
    retry_after = 0.5

    def __init__(self) -> None:
        super().__init__("the store of sessions cannot be used at present; nothing was applied")


class SessionsExhaustedError(RetryLaterError):
    reason = "SESSIONS_EXHAUSTED"
    retry_after = 1.0

    def __init__(self, model: str, version: str, limit: int) -> None:
        super().__init__(
            f"model {model!r} version {version} has all its {limit} sessions open",
            model=model,
            version=version,
            limit=limit,
        )
