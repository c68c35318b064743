"""Why a request of the Open Inference Protocol was refused, where no native request could be."""

from __future__ import annotations

from keepgate.errors.base import RequestError, RetryLaterError
from keepgate.errors.sessions import SessionGoneError


class SequenceNotStartedError(RequestError):
    """A request goes on with a sequence that is not live. `cause` says what became of it."""

    reason = "SEQUENCE_NOT_STARTED"

    def __init__(self, sequence: int | str, model: str, cause: SessionGoneError) -> None:
        shown = str(sequence)[:100]
        super().__init__(
            f"inference request for sequence {shown} to model '{model}' must specify the START flag on "
            f"the first request of the sequence: it {cause.how}",
            sequence_id=sequence,
            model=model,
            cause=cause.reason,
        )


class QueueTimeoutError(RetryLaterError):
    """A request waited longer than it allowed. It was not applied, nor what was queued behind it."""

    reason = "QUEUE_TIMEOUT"
    retry_after = 0.1

    def __init__(self) -> None:
        super().__init__("Request timeout expired before its turn came; nothing of it was applied")


class UnsupportedError(RequestError):
    """A part of the protocol that this server does not have."""

    reason = "UNSUPPORTED"

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: not supported: {why}", what=what)


class RepositoryControlError(RequestError):
    reason = "REPOSITORY_CONTROL"

    def __init__(self) -> None:
        super().__init__(
            "models are loaded and unloaded by the operator, with keepgate.v1.Admin on its own listener: the "
            "setting oip_repository_control is off"
        )
