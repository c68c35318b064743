"""What every call does, without doing it: the part that sync and asyncio clients share.

A plan is a generator. It yields what it wants done (Call, Sleep), is resumed with the answer or with
the typed error of a failed call, and returns the call's result. `_io` only carries out
what plans ask for, so retries, positions and conversions exist once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Self, TypeAlias, TypeVar

from google.protobuf.message import Message
from keepgate_protos.v1 import models_pb2, sequences_pb2

from keepgate_client import _convert, _rpc, errors, types
from keepgate_client._retry import RetryPolicy
from keepgate_client._session import SessionState

SETTLE_SECONDS = 0.1
"""How long a position must stand still after a loop was left: many times what a token takes."""
SETTLE_ATTEMPTS = 50


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


class Deadline:
    """A call's timeout, counted over all of its attempts."""

    def __init__(self, timeout: float) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout: got {timeout}, expected seconds above 0")
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds left, never quite 0, so that gRPC itself reports the end of it."""
        return max(self._end - time.monotonic(), 1e-3)

    def allows(self, delay: float) -> bool:
        """Whether waiting this long leaves time for another attempt."""
        return time.monotonic() + delay < self._end


@dataclass(frozen=True, slots=True)
class Plans:
    """Makes the plans of one client. `timeout` is the default, in seconds."""

    timeout: float
    retry: RetryPolicy

    def deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else timeout)

    def repeat(
        self,
        method: _rpc.Method[Any, Any],
        request: Message,
        timeout: float | None,
        settle: Callable[[errors.KeepgateError], Any] | None = None,
    ) -> Plan[Any]:
        """Send one request until an answer comes, as far as the retry policy and timeout allow.

        settle(error) may turn the error of a repeated request into an answer; it returns
        None if it cannot.
        """
        deadline = self.deadline(timeout)
        failures = 0
        while True:
            try:
                return (yield Call(method, request, deadline.left()))
            except errors.KeepgateError as error:
                if settle and failures and (settled := settle(error)) is not None:
                    return settled
                failures += 1
                delay = self.retry.delay(failures, error)
                if delay is None or not deadline.allows(delay):
                    raise
            yield Sleep(delay)

    def open(
        self,
        model: str,
        version: str,
        session_id: str,
        idle_ttl: float | timedelta | None,
        timeout: float | None,
    ) -> Plan[SessionState]:
        # The client draws the id, so that an Open whose answer got lost finds its own session.
        drawn = not session_id
        session_id = session_id or secrets.token_hex(16)
        request = sequences_pb2.OpenRequest(
            model=_convert.unicode("model", model),
            version=_convert.unicode("version", version),
            session_id=_convert.unicode("session_id", session_id),
            idle_ttl=_convert.idle_ttl_to_proto(idle_ttl),
        )

        def settle(error: errors.KeepgateError) -> str | None:
            return session_id if drawn and isinstance(error, errors.SessionExistsError) else None

        answer = yield from self.repeat(_rpc.OPEN, request, timeout, settle)
        if isinstance(answer, str):
            return (yield from self.attach(answer, timeout))
        return SessionState.of(answer.session)

    def describe(self, session_id: str, timeout: float | None) -> Plan[types.SessionInfo]:
        request = sequences_pb2.DescribeRequest(session_id=_convert.unicode("session_id", session_id))
        answer = yield from self.repeat(_rpc.DESCRIBE, request, timeout)
        return _convert.session_from_proto(answer.session)

    def attach(self, session_id: str, timeout: float | None) -> Plan[SessionState]:
        info = yield from self.describe(session_id, timeout)
        return SessionState(info.session_id, info.model, info.version, info.position)

    def resync(self, state: SessionState, timeout: float | None) -> Plan[types.SessionInfo]:
        with state.used_by("resync"):
            # A loop that was just cancelled may have one more input under way on the server, which is
            # still applied. So the position counts once it has stood still.
            info = yield from self.describe(state.session_id, timeout)
            for _ in range(SETTLE_ATTEMPTS):
                before = info.position
                yield Sleep(SETTLE_SECONDS)
                info = yield from self.describe(state.session_id, timeout)
                if info.position == before:
                    break
            state.moved(info.position)
            return info

    def step(
        self, state: SessionState, request: sequences_pb2.StepRequest, timeout: float | None
    ) -> Plan[types.Prediction]:
        with state.used_by("step"):
            request.position = state.position
            answer = yield from self.repeat(_rpc.STEP, request, timeout)
            state.moved(answer.position)
            return _convert.prediction_from_proto(answer)

    def score(
        self,
        state: SessionState,
        inputs: sequences_pb2.Inputs,
        per_token: bool,
        timeout: float | None,
    ) -> Plan[types.Score]:
        with state.used_by("score"):
            request = sequences_pb2.ScoreRequest(
                session_id=state.session_id,
                position=state.position,
                inputs=inputs,
                per_token=per_token,
            )
            answer = yield from self.repeat(_rpc.SCORE, request, timeout)
            state.moved(answer.position)
            return _convert.score_from_proto(answer, per_token)

    def score_model(
        self,
        model: str,
        version: str,
        inputs: sequences_pb2.Inputs,
        per_token: bool,
        timeout: float | None,
    ) -> Plan[types.Score]:
        reference = sequences_pb2.ModelReference(
            name=_convert.unicode("model", model), version=_convert.unicode("version", version)
        )
        request = sequences_pb2.ScoreRequest(model=reference, inputs=inputs, per_token=per_token)
        answer = yield from self.repeat(_rpc.SCORE, request, timeout)
        return _convert.score_from_proto(answer, per_token)

    def close(self, state: SessionState, timeout: float | None) -> Plan[int]:
        with state.used_by("close"):
            request = sequences_pb2.CloseRequest(session_id=state.session_id)

            def settle(error: errors.KeepgateError) -> int | None:
                return state.position if isinstance(error, errors.SessionClosedError) else None

            answer = yield from self.repeat(_rpc.CLOSE, request, timeout, settle)
            if not isinstance(answer, int):
                state.moved(answer.position)
            return state.position

    def sessions_page(
        self, model: str, page_size: int, page_token: str, timeout: float | None
    ) -> Plan[tuple[list[types.SessionInfo], str]]:
        request = sequences_pb2.ListRequest(
            page_size=page_size, page_token=page_token, model=_convert.unicode("model", model)
        )
        answer = yield from self.repeat(_rpc.LIST, request, timeout)
        return [_convert.session_from_proto(s) for s in answer.sessions], answer.next_page_token

    def models(self, timeout: float | None) -> Plan[list[types.ModelInfo]]:
        request = models_pb2.ListModelsRequest()
        answer = yield from self.repeat(_rpc.LIST_MODELS, request, timeout)
        return [_convert.model_from_proto(model) for model in answer.models]

    def model(self, name: str, version: str, timeout: float | None) -> Plan[types.ModelInfo]:
        request = models_pb2.DescribeModelRequest(
            name=_convert.unicode("name", name), version=_convert.unicode("version", version)
        )
        answer = yield from self.repeat(_rpc.DESCRIBE_MODEL, request, timeout)
        return _convert.model_from_proto(answer.model)
