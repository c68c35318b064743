"""Everything that can go wrong, in the terms of the domain. No transport codes: see `rpc.status`.

KeepgateError
├── ConfigError              a setting is missing, mistyped or out of range
│   └── PrecisionError           a precision is set for a model that is not there
├── ListenError              the address cannot be listened on
├── RepositoryError          no model of the repository could be loaded, or not the one asked for
├── ModelFileError           a model file is damaged or lies about itself
├── StoreError               the store of sessions cannot be reached, or cannot write
├── UnknownCharacterError    a text cannot be encoded
└── RequestError             a request was refused; the text is for the client
    ├── InvalidArgumentError     a field of the request is at fault
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
    │   └── DrainingError
    ├── ComputationError         the computation failed; the server's log says why
    └── NotFiniteError           the state has overflowed; its session is lost
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

MAX_MESSAGE = 1_000
"""Percent-encoded bytes of a message to a client. It may echo the request, and travels in the
trailing metadata up to three times: as it is, in the details, and as a field's violation. Common
clients take 8 KiB of trailing metadata."""
MAX_VALUE = 200
"""Percent-encoded bytes of one value of an error's metadata."""


class KeepgateError(Exception):
    """Base of all errors that Keepgate raises on purpose."""


class ConfigError(KeepgateError):
    """Settings are not valid; the text has one line a setting."""


class PrecisionError(ConfigError):
    """`models`: the names, each NAME or NAME/VERSION, that the repository does not have."""

    def __init__(self, models: list[str], there: str) -> None:
        names = ", ".join(repr(model) for model in models)
        super().__init__(f"precision: got {names}, expected a model of the repository; there: {there}")
        self.models = models


class ListenError(KeepgateError):
    """The server cannot listen on its address."""


class RepositoryError(KeepgateError):
    """The model repository has no model that could be loaded, or not the one asked for."""


class ModelFileError(KeepgateError):
    """A model file was refused. `fault` says why, `tensor` names the tensor at fault, if one is."""

    def __init__(self, path: Path, fault: str, tensor: str = "") -> None:
        where = f"{path}: tensor {tensor!r}" if tensor else str(path)
        super().__init__(f"{where}: {fault}")
        self.path = path
        self.fault = fault
        self.tensor = tensor


class StoreError(KeepgateError):
    """The store of sessions cannot be opened or reached, or it cannot write."""


class UnknownCharacterError(KeepgateError):
    """A text has a character that is not in the vocabulary. `index` counts characters from 0."""

    def __init__(self, character: str, index: int) -> None:
        super().__init__(f"character {character!r} at index {index} is not in the vocabulary")
        self.character = character
        self.index = index


class RequestError(KeepgateError):
    """A request was refused. `reason` is for programs, the text for people, `metadata` for both."""

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: str | int) -> None:
        super().__init__(_shorten(message, MAX_MESSAGE))
        self.metadata = {name: _shorten(str(value), MAX_VALUE) for name, value in metadata.items()}


class InvalidArgumentError(RequestError):
    """`field` is the path of the field at fault, as in the proto: "inputs.tokens.ids[3]"."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, got: str, expected: str) -> None:
        super().__init__(f"{field}: got {got}, expected {expected}", field=field)
        self.field = field
        self.description = _shorten(f"got {got}, expected {expected}", MAX_MESSAGE)


class ModelNotFoundError(RequestError):
    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, version: str, loaded: str, fault: str = "is not loaded; loaded") -> None:
        wanted = f"version {version!r} of model {model!r}" if version else f"model {model!r}"
        super().__init__(f"{wanted} {fault}: {loaded or 'nothing'}", model=model, version=version)


class ModelRefusedError(RequestError):
    """What was loaded before goes on serving. model and version are empty if it is the repository's fault."""

    reason = "MODEL_REFUSED"

    def __init__(self, fault: str, model: str = "", version: str = "") -> None:
        super().__init__(fault, model=model, version=version)


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


class RetryLaterError(RequestError):
    """Waiting helps: `retry_after` is a guess in seconds."""

    retry_after: float


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


class StepsExhaustedError(RetryLaterError):
    reason = "STEPS_EXHAUSTED"
    retry_after = 0.1

    def __init__(self, pending: int, wanted: int, limit: int) -> None:
        super().__init__(
            f"{pending} inputs wait to be applied: got {wanted} more, expected at most {limit} in all",
            pending=pending,
            limit=limit,
        )


class CallsExhaustedError(RetryLaterError):
    reason = "CALLS_EXHAUSTED"
    retry_after = 0.1

    def __init__(self, limit: int) -> None:
        super().__init__(f"all {limit} calls that the server serves at once are taken", limit=limit)


class DrainingError(RetryLaterError):
    reason = "DRAINING"
    retry_after = 1.0

    def __init__(self) -> None:
        super().__init__("the server is shutting down and takes no new work")


class ComputationError(RequestError):
    """A tick failed. The text stays general: the cause is in the server's log."""

    reason = "COMPUTATION_FAILED"

    def __init__(self) -> None:
        super().__init__("the computation failed; the server's log says why")


class NotFiniteError(RequestError):
    """A prediction or a score is infinite or no number, and so is what would follow."""

    reason = "NOT_FINITE"

    def __init__(self) -> None:
        super().__init__(
            "the model's prediction is not finite: the session's state has overflowed and the session is lost"
        )


def _shorten(text: str, limit: int) -> str:
    """The text, or as much of its beginning as takes `limit` bytes in grpc-message with a "…"."""
    if len(text) <= limit and sum(map(_encoded_size, text)) <= limit:
        return text
    room = limit - _encoded_size("…")
    for end, character in enumerate(text):
        room -= _encoded_size(character)
        if room < 0:
            return text[:end] + "…"
    return text + "…"


def _encoded_size(character: str) -> int:
    """Bytes in grpc-message, where all but printable ASCII is percent-encoded.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
    """
    if character.isascii() and character.isprintable() and character != "%":
        return 1
    return 3 * len(character.encode())
