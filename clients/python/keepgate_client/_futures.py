"""Futures of predictions, whether of threads or of asyncio."""

from __future__ import annotations

from typing import Protocol, TypeAlias, TypeVar

from keepgate_client.errors import KeepgateError
from keepgate_client.types import Prediction


class PredictionFuture(Protocol):
    """What concurrent.futures.Future and asyncio.Future have in common."""

    def done(self) -> bool: ...

    def set_result(self, result: Prediction, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


F = TypeVar("F", bound=PredictionFuture)

Completion: TypeAlias = tuple[F, Prediction | KeepgateError]


def complete(completions: list[Completion[F]]) -> None:
    """Complete the futures. Not under a lock: callbacks of the user run here."""
    for future, outcome in completions:
        if future.done():
            continue
        if isinstance(outcome, Prediction):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
