"""What every call does, without doing it: the part that sync and asyncio clients share.

Each method makes a plan (`_wishes`), so retries, positions and conversions exist once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from keepgate_protos.v1 import models_pb2, sequences_pb2

from keepgate_client import _convert, _infos, _rpc, errors, types
from keepgate_client._retry import RetryPolicy
from keepgate_client._session import SessionState
from keepgate_client._wishes import Call, Plan, Sleep

SETTLE_SECONDS = 0.1
"""How long a position must stand still after a loop was left: many times what a token takes."""
SETTLE_ATTEMPTS = 50


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
class NewSession:
    """What every call that starts a session says of it. drawn: the client chose the id, so that a session of
    this id can only be that of the very same call."""

    session_id: str
    drawn: bool
    idle_ttl: Duration | None
    durability: sequences_pb2.Durability

    @classmethod
    def of(
        cls,
        session_id: str,
        idle_ttl: float | timedelta | None,
        durability: types.DurabilityName | None,
    ) -> Self:
        """session_id "" draws 128 random bits. Raises ValueError for what the wire cannot carry."""
        return cls(
            _convert.unicode("session_id", session_id) or secrets.token_hex(16),
            not session_id,
            _convert.idle_ttl_to_proto(idle_ttl),
            _infos.durability_to_proto(durability),
        )


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
        new: NewSession,
        initial_state: Iterable[types.LayerState],
        timeout: float | None,
    ) -> Plan[SessionState]:
        request = sequences_pb2.OpenRequest(
            model=_convert.unicode("model", model),
            version=_convert.unicode("version", version),
            session_id=new.session_id,
            idle_ttl=new.idle_ttl,
            durability=new.durability,
            initial_state=_convert.state_to_proto(initial_state),
        )
        return (yield from self._begin(_rpc.OPEN, request, new, timeout))

    def fork(self, state: SessionState, new: NewSession, timeout: float | None) -> Plan[SessionState]:
        request = sequences_pb2.ForkRequest(
            session_id=state.session_id,
            fork_id=new.session_id,
            idle_ttl=new.idle_ttl,
            durability=new.durability,
        )
        with state.used_by("fork"):
            twin = yield from self._begin(_rpc.FORK, request, new, timeout)
            if twin.position == state.position:
                twin.pending = state.pending
            return twin

    def import_session(
        self, blob: bytes, model: str, version: str, new: NewSession, timeout: float | None
    ) -> Plan[SessionState]:
        request = sequences_pb2.ImportRequest(
            blob=blob,
            model=_convert.unicode("model", model),
            version=_convert.unicode("version", version),
            session_id=new.session_id,
            idle_ttl=new.idle_ttl,
            durability=new.durability,
        )
        return (yield from self._begin(_rpc.IMPORT, request, new, timeout))

    def _begin(
        self, method: _rpc.Method[Any, Any], request: Message, new: NewSession, timeout: float | None
    ) -> Plan[SessionState]:
        """A call that starts a session; one whose answer got lost finds its own session."""

        def settle(error: errors.KeepgateError) -> bool | None:
            return True if new.drawn and isinstance(error, errors.SessionExistsError) else None

        answer = yield from self.repeat(method, request, timeout, settle)
        if answer is True:
            return (yield from self.attach(new.session_id, timeout))
        return SessionState.of(answer.session)

    def describe(self, session_id: str, timeout: float | None) -> Plan[types.SessionInfo]:
        request = sequences_pb2.DescribeRequest(session_id=_convert.unicode("session_id", session_id))
        answer = yield from self.repeat(_rpc.DESCRIBE, request, timeout)
        return _infos.session_from_proto(answer.session, described=True)

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
            answer = yield from self._move(state, _rpc.STEP, request, timeout)
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
            answer = yield from self._move(state, _rpc.SCORE, request, timeout)
            return _convert.score_from_proto(answer, per_token)

    def _move(
        self, state: SessionState, method: _rpc.Method[Any, Any], request: Message, timeout: float | None
    ) -> Plan[Any]:
        """A call that applies inputs: the session follows its answer, or goes back to what is not lost."""
        try:
            answer = yield from self.repeat(method, request, timeout)
        except errors.StepsLostError as error:
            state.lost(error)
            raise
        state.moved(answer.position)
        return answer

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

    def rewind(self, state: SessionState, position: int, timeout: float | None) -> Plan[types.SessionInfo]:
        with state.used_by("rewind"):
            request = sequences_pb2.RewindRequest(
                session_id=state.session_id, position=_convert.unsigned("position", position, 64)
            )
            answer = yield from self.repeat(_rpc.REWIND, request, timeout)
            state.moved(answer.session.position)
            return _infos.session_from_proto(answer.session)

    def export(self, state: SessionState, timeout: float | None) -> Plan[bytes]:
        with state.used_by("export"):
            request = sequences_pb2.ExportRequest(session_id=state.session_id)
            answer = yield from self.repeat(_rpc.EXPORT, request, timeout)
            blob: bytes = answer.blob
            return blob

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
        return [_infos.session_from_proto(s) for s in answer.sessions], answer.next_page_token

    def models(self, timeout: float | None) -> Plan[list[types.ModelInfo]]:
        request = models_pb2.ListModelsRequest()
        answer = yield from self.repeat(_rpc.LIST_MODELS, request, timeout)
        return [_infos.model_from_proto(model) for model in answer.models]

    def model(self, name: str, version: str, timeout: float | None) -> Plan[types.ModelInfo]:
        request = models_pb2.DescribeModelRequest(
            name=_convert.unicode("name", name), version=_convert.unicode("version", version)
        )
        answer = yield from self.repeat(_rpc.DESCRIBE_MODEL, request, timeout)
        return _infos.model_from_proto(answer.model)
