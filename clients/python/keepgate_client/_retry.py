"""When and how long to wait before a request is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib import resources

from grpc import StatusCode

from keepgate_client.errors import KeepgateError, ServerError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request that is safe to repeat is sent, and how long to wait in between.

    attempts: times a request is sent at most; 1 never retries.
    initial_backoff, multiplier, max_backoff: the wait before attempt n+1 is drawn uniformly from the
        upper half of [0, min(max_backoff, initial_backoff * multiplier**(n-1))] seconds, so that the
        clients of a restarted server do not come back all at once.

    A server's own suggestion (RetryInfo) is waited for in full where it is longer. No retry starts
    that would end after the call's timeout.

        Client("127.0.0.1:8001", retry=RetryPolicy(attempts=3))
    """

    attempts: int = 10
    initial_backoff: float = 0.05
    multiplier: float = 2.0
    max_backoff: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts: got {self.attempts}, expected at least 1")
        if self.initial_backoff <= 0 or self.max_backoff <= 0 or self.multiplier < 1:
            raise ValueError(
                f"got initial_backoff {self.initial_backoff}, max_backoff {self.max_backoff}, "
                f"multiplier {self.multiplier}; expected positive seconds and a multiplier of at least 1"
            )

    def delay(self, failures: int, error: KeepgateError) -> float | None:
        """Seconds to wait after the `failures`-th failure in a row, or None to give up."""
        if failures >= self.attempts or not is_retriable(error):
            return None
        backoff = min(self.max_backoff, self.initial_backoff * self.multiplier ** min(failures - 1, 64))
        jittered = random.uniform(backoff / 2, backoff)  # noqa: S311 - spreads load, hides nothing
        return max(jittered, error.retry_after or 0.0)


def service_config() -> str:
    """A gRPC service config (JSON) for clients that have no RetryPolicy: option "grpc.service_config" of a
    channel, in any language.

    gRPC may repeat only what changes nothing: Describe, List, Export, Models and health. It can't tell a
    step that names its position from one that doesn't, nor send a new Open under the same id. This client
    does not use it: its own retries know all that, and the two would multiply.
    """
    return resources.files("keepgate_client").joinpath("service_config.json").read_text()


def is_retriable(error: KeepgateError) -> bool:
    """Whether the same request, sent again later, may succeed.

    UNAVAILABLE means that the connection failed or that the server drains. A refusal with RetryInfo
    applied nothing and says that waiting helps.
    """
    if error.code is StatusCode.UNAVAILABLE:
        return True
    return isinstance(error, ServerError) and error.retry_after is not None
