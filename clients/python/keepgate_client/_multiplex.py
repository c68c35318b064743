"""Steps of many sessions over one Stream call that may break and be opened again. No I/O, no clock.

Sync and asyncio streams share this. They hand in what happened (a step submitted, a message received,
the call broken) with the time, and get back what to do: messages to send, futures to complete. Times
are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic

from grpc import StatusCode
from keepgate_protos.v1 import sequences_pb2

from keepgate_client import _convert, errors
from keepgate_client._futures import Completion, F
from keepgate_client._retry import RetryPolicy
from keepgate_client._rpc import error_from_status
from keepgate_client._session import SessionState
from keepgate_client.types import Prediction

SWEEP_SECONDS = 0.1
"""How often unanswered steps are checked against their deadlines."""


@dataclass(slots=True, eq=False)
class Step(Generic[F]):
    """One step from submission to answer."""

    request: sequences_pb2.StepRequest
    count: int | None
    future: F
    deadline: float
    request_id: int = 0
    sent_before: bool = False
    failures: int = 0


@dataclass(slots=True, eq=False)
class Lane(Generic[F]):
    """The unanswered steps of one session, in order: first those sent, then those waiting.

    position: that of the next step to send; None until the answer to a text tells.
    resume_at: when to send again after a refusal that waiting helps; 0 if there was none.
    error: the refusal of an earlier step, after which the rest of the lane is not applied.
    """

    state: SessionState
    position: int | None
    sent: deque[Step[F]] = field(default_factory=deque)
    waiting: deque[Step[F]] = field(default_factory=deque)
    resume_at: float = 0.0
    error: errors.KeepgateError | None = None

    def steps(self) -> Iterator[Step[F]]:
        return chain(self.sent, self.waiting)


class Multiplexer(Generic[F]):
    """The state of a multiplexing stream.

    window: steps of one session that are sent ahead of their answers at most, counting from 1. The
        server answers again what a session retains, so a broken call or a server that was restarted loses
        nothing; only a window longer than that may lose answers (AnswerLostError), but no step.
    """

    def __init__(self, retry: RetryPolicy, window: int) -> None:
        if window < 1:
            raise ValueError(f"window: got {window}, expected at least 1")
        self._retry = retry
        self._window = window
        self._lanes: dict[str, Lane[F]] = {}
        self._postponed: list[Lane[F]] = []
        self._sent: dict[int, tuple[Lane[F], Step[F]]] = {}
        self._outbox: deque[sequences_pb2.StreamRequest] = deque()
        self._last_id = 0
        self._failures = 0
        self._next_sweep = 0.0

    @property
    def idle(self) -> bool:
        """No step waits for an answer."""
        return not self._lanes

    def submit(
        self,
        state: SessionState,
        request: sequences_pb2.StepRequest,
        count: int | None,
        future: F,
        deadline: float,
    ) -> None:
        """Queue a step behind the others of its session. Raises SessionBusyError.

        count: positions it takes; None if only the answer tells, which holds back the next step.
        """
        lane = self._lanes.get(state.session_id)
        if lane is None:
            state.acquire("stream")
            lane = self._lanes[state.session_id] = Lane(state, state.position)
        elif lane.state is not state:
            # A second object for the same session has a position of its own.
            raise errors.SessionBusyError(
                f"session {state.session_id!r} is in use on this stream by another session object",
                code=StatusCode.FAILED_PRECONDITION,
                metadata={"session_id": state.session_id},
            )
        lane.waiting.append(Step(request, count, future, deadline))
        self._send_ready(lane)

    def next_message(self, now: float) -> sequences_pb2.StreamRequest | None:
        """The next message to send on the open call, if one is due."""
        due = [lane for lane in self._postponed if lane.resume_at <= now]
        for lane in due:
            self._postponed.remove(lane)
            lane.resume_at = 0.0
            self._send_ready(lane)
        while self._outbox:
            message = self._outbox.popleft()
            if message.request_id in self._sent:
                return message  # else it was given up, or waits to be sent again under a new id
        return None

    def wait_seconds(self, now: float) -> float | None:
        """How long nothing happens by itself; None means forever."""
        if not self._lanes:
            return None
        times = [lane.resume_at for lane in self._postponed]
        return max(0.0, min([self._next_sweep, *times]) - now)

    def receive(self, response: sequences_pb2.StreamResponse, now: float) -> list[Completion[F]]:
        """Take an answer. Returns the futures to complete."""
        self._failures = 0
        lane, step = self._sent.pop(response.request_id, (None, None))
        if lane is None or step is None:
            return []  # of a step that was given up or is sent again under a new id
        if response.WhichOneof("result") == "step":
            prediction = _convert.prediction_from_proto(response.step)
            return self._applied(lane, step, prediction.position, prediction)
        error = error_from_status(response.error)
        if (end := _end_if_applied(step, error)) is not None:
            return self._applied(lane, step, end, _answer_lost(lane, step))
        if lane.error is not None:
            error = _skipped(lane, lane.error)
        elif self._postpone(lane, step, error, now):
            return []
        else:
            lane.error = error
            if isinstance(error, errors.StepsLostError):
                lane.state.lost(error)
        lane.sent.remove(step)
        completions: list[Completion[F]] = [(step.future, error)]
        # What was sent ahead is refused by its position and stays until that answer is here. What
        # waits would fit, and must not be sent.
        completions += [(s.future, _skipped(lane, lane.error)) for s in lane.waiting]
        lane.waiting.clear()
        return self._completed(lane, completions)

    def broken(self, error: errors.KeepgateError) -> tuple[float | None, list[Completion[F]]]:
        """The call broke. Returns the seconds until it is to be opened again, and futures to complete.

        All unanswered steps go back to be sent again, or fail if there is no use in waiting; then the
        seconds are None.
        """
        self._failures += 1
        delay = self._retry.delay(self._failures, error)
        completions: list[Completion[F]] = []
        if delay is None:
            return None, self.fail_all(error)
        for lane in list(self._lanes.values()):
            if lane.error is not None:
                completions += self._drop(lane, _always(_skipped(lane, lane.error)))
            else:
                self._unsend(lane)
        self._outbox.clear()
        for lane in self._lanes.values():
            self._send_ready(lane)
        return delay, completions

    def fail_all(self, error: errors.KeepgateError) -> list[Completion[F]]:
        """Give up on every unanswered step."""
        self._failures = 0
        self._outbox.clear()
        lanes = list(self._lanes.values())
        return [completion for lane in lanes for completion in self._drop(lane, _always(error))]

    def expire(self, now: float) -> list[Completion[F]]:
        """Give up on sessions with a step whose deadline passed. Returns the futures to complete.

        Whether what was sent is applied stays open, and late answers are ignored. So the session stays
        where it was, and the same step submitted again finds its answer.
        """
        if now < self._next_sweep:
            return []
        self._next_sweep = now + SWEEP_SECONDS
        late = [lane for lane in self._lanes.values() if any(s.deadline <= now for s in lane.steps())]
        return [completion for lane in late for completion in self._give_up(lane, now)]

    def _give_up(self, lane: Lane[F], now: float) -> list[Completion[F]]:
        error = errors.DeadlineExceededError(
            f"no answer to a step of session {lane.state.session_id!r} within the timeout",
            code=StatusCode.DEADLINE_EXCEEDED,
        )
        unsent = _skipped(lane, error)
        return self._drop(lane, lambda s: error if s.sent_before or s.deadline <= now else unsent)

    def _send_ready(self, lane: Lane[F]) -> None:
        """Put the lane's waiting steps into the outbox, as far as their positions are known."""
        if lane.resume_at or lane.error is not None:
            return
        while lane.waiting and lane.position is not None and len(lane.sent) < self._window:
            step = lane.waiting.popleft()
            self._last_id += 1
            step.request_id = self._last_id
            step.request.position = lane.position
            lane.sent.append(step)
            self._sent[step.request_id] = lane, step
            self._outbox.append(sequences_pb2.StreamRequest(request_id=step.request_id, step=step.request))
            lane.position = None if step.count is None else lane.position + step.count

    def _postpone(self, lane: Lane[F], step: Step[F], error: errors.KeepgateError, now: float) -> bool:
        """Send the refused step and all behind it again later, if that may help."""
        step.failures += 1
        delay = self._retry.delay(step.failures, error)
        if delay is None or now + delay >= step.deadline:
            return False
        self._unsend(lane)
        lane.resume_at = now + delay
        self._postponed.append(lane)
        return True

    def _unsend(self, lane: Lane[F]) -> None:
        # A new id for the next attempt: answers to the old one, still under way, are then ignored.
        for step in lane.sent:
            del self._sent[step.request_id]
            step.sent_before = True
        lane.waiting.extendleft(reversed(lane.sent))
        lane.sent.clear()
        lane.position = lane.state.position

    def _drop(self, lane: Lane[F], error: Callable[[Step[F]], errors.KeepgateError]) -> list[Completion[F]]:
        self._unsend(lane)
        completions: list[Completion[F]] = [(step.future, error(step)) for step in lane.waiting]
        lane.waiting.clear()
        return self._completed(lane, completions)

    def _applied(
        self, lane: Lane[F], step: Step[F], position: int, outcome: Prediction | errors.AnswerLostError
    ) -> list[Completion[F]]:
        lane.state.moved(position)
        lane.sent.remove(step)
        if not lane.sent:
            lane.position = position
        self._send_ready(lane)
        return self._completed(lane, [(step.future, outcome)])

    def _completed(self, lane: Lane[F], completions: list[Completion[F]]) -> list[Completion[F]]:
        if not (lane.sent or lane.waiting):
            del self._lanes[lane.state.session_id]
            if lane.resume_at:
                self._postponed.remove(lane)
            lane.state.release()
        return completions


def _always(error: errors.KeepgateError) -> Callable[[object], errors.KeepgateError]:
    return lambda _: error


def _end_if_applied(step: Step[F], error: errors.KeepgateError) -> int | None:
    """The step's end, if the error says that an earlier attempt applied it and steps after it."""
    if not (step.sent_before and step.count and isinstance(error, errors.PositionMismatchError)):
        return None
    end = step.request.position + step.count
    return end if (error.expected_position or 0) > end else None


def _answer_lost(lane: Lane[F], step: Step[F]) -> errors.AnswerLostError:
    return errors.AnswerLostError(
        f"session {lane.state.session_id!r}: the step at position {step.request.position} was applied "
        "once, but its answer was lost with the connection",
        code=StatusCode.UNAVAILABLE,
        metadata={"session_id": lane.state.session_id, "position": str(step.request.position)},
    )


def _skipped(lane: Lane[F], cause: errors.KeepgateError) -> errors.StepSkippedError:
    error = errors.StepSkippedError(
        f"session {lane.state.session_id!r}: not applied, because an earlier step on this stream "
        f"failed: {cause}",
        code=StatusCode.FAILED_PRECONDITION,
        metadata={"session_id": lane.state.session_id},
    )
    error.__cause__ = cause
    return error
