"""Futures of answers, whether of threads or of asyncio."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar

from keepgate_client.errors import KeepgateError


class AnswerFuture(Protocol):
    """What concurrent.futures.Future and asyncio.Future have in common."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


F = TypeVar("F", bound=AnswerFuture)

Completion: TypeAlias = tuple[F, Any]
"""A future, and the answer or the KeepgateError that it gets."""


def complete(completions: list[Completion[F]]) -> None:
    """Complete the futures. Not under a lock: callbacks of the user run here."""
    for future, outcome in completions:
        if future.done():
            continue
        if isinstance(outcome, KeepgateError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
