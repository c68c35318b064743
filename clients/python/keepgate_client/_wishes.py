"""Plans: what a call does, without doing it.

A plan is a generator. It yields what it wants done (Call, Sleep), is resumed with the answer or with
the typed error of a failed call, and returns the call's result. `_io` only carries out
what plans ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeAlias, TypeVar

from google.protobuf.message import Message

from keepgate_client import _rpc, errors


@dataclass(frozen=True, slots=True)
class Call:
    """Send the request; resume with the response, or throw the typed error."""

    method: _rpc.Method[Any, Any]
    request: Message
    timeout: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait this many seconds."""

    seconds: float


T = TypeVar("T")
Wish: TypeAlias = Call | Sleep
Plan: TypeAlias = Generator[Wish, Any, T]


class Running(Generic[T]):
    """A plan on its way: the wish to grant next, or None and the result."""

    result: T

    def __init__(self, plan: Plan[T]) -> None:
        self._plan = plan
        self.wish: Wish | None = None

    def __enter__(self) -> Self:
        self._advance(lambda: next(self._plan))
        return self

    def __exit__(self, *_: object) -> None:
        self._plan.close()  # interrupted in the middle, it still releases its session

    def resume(self, outcome: Any) -> None:
        """Go on with the answer, or with the error of a call that failed."""
        if isinstance(outcome, errors.KeepgateError):
            self._advance(lambda: self._plan.throw(outcome))
        else:
            self._advance(lambda: self._plan.send(outcome))

    def _advance(self, move: Callable[[], Wish]) -> None:
        try:
            self.wish = move()
        except StopIteration as stop:
            self.wish = None
            self.result = stop.value
