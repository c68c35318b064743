"""Errors that name no session."""

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


class LostDeviceError(KeepgateError):
    """The device that states are on failed. What the store has outlives it, for another process to go on."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))


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
        self.model = model
        self.version = version
        self.loaded = loaded


class ModelRefusedError(RequestError):
    """What was loaded before goes on serving. model and version are empty if it is the repository's fault."""

    reason = "MODEL_REFUSED"

    def __init__(self, fault: str, model: str = "", version: str = "") -> None:
        super().__init__(fault, model=model, version=version)


class RetryLaterError(RequestError):
    """Waiting helps: `retry_after` is a guess in seconds."""

    retry_after: float


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


class ConnectionAgedError(RetryLaterError):
    """A stream is as old as a connection may get. All that was read of it is answered."""

    reason = "CONNECTION_AGED"
    retry_after = 0.0

    def __init__(self) -> None:
        super().__init__("the connection is old, and all its steps are answered: open another stream")


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
    if len(text) <= limit and (_is_plain(text) or sum(map(_encoded_size, text)) <= limit):
        return text
    room = limit - _encoded_size("…")
    for end, character in enumerate(text):
        room -= _encoded_size(character)
        if room < 0:
            return text[:end] + "…"
    return text + "…"


def _is_plain(text: str) -> bool:
    """Whether all characters travel as they are."""
    return text.isascii() and text.isprintable() and "%" not in text


def _encoded_size(character: str) -> int:
    """Bytes in grpc-message, where all but printable ASCII is percent-encoded.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
    """
    if _is_plain(character):
        return 1
    return 3 * len(character.encode())
