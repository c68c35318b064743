"""What a call that may break and be opened again needs to know of what goes over it."""

from __future__ import annotations

from typing import Any, Protocol

from keepgate_client._futures import Completion, F
from keepgate_client.errors import KeepgateError

CLOSE_SECONDS = 5.0
"""How long the server may take to acknowledge the end of a call before the call is cancelled."""


class Core(Protocol[F]):
    """What is sent and received, without I/O or a clock. Times are seconds of one monotonic clock.

    A driver hands in what happened, and gets back messages to send and futures to complete.
    """

    @property
    def idle(self) -> bool:
        """Nothing waits for an answer."""
        ...

    def next_message(self, now: float) -> Any | None:
        """The next message to send on the open call, if one is due."""
        ...

    def wait_seconds(self, now: float) -> float | None:
        """How long nothing happens by itself; None means forever."""
        ...

    def receive(self, response: Any, now: float) -> list[Completion[F]]:
        """Take an answer. Returns the futures to complete."""
        ...

    def expire(self, now: float) -> list[Completion[F]]:
        """Give up on what has a deadline that passed. Returns the futures to complete."""
        ...

    def broken(self, error: KeepgateError) -> tuple[float | None, list[Completion[F]]]:
        """The call broke. Returns the seconds until it is to be opened again, and futures to complete.

        The seconds are None if there is no use in waiting; then all futures are among those to complete.
        """
        ...

    def fail_all(self, error: KeepgateError) -> list[Completion[F]]:
        """Give up on everything unanswered."""
        ...
