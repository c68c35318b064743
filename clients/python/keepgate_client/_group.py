"""Frames of a group of sessions over one StreamFrames call that may break and be opened again.

A `Core`: no I/O, no clock; sync and asyncio groups share it. When a call is opened the sessions are bound,
and only then frames are sent. A row is in one frame under way at most, so its position stands still until the
answer, and whatever is sent again carries the same one.
"""

from __future__ import annotations

from typing import Generic

import numpy as np
from grpc import StatusCode
from keepgate_protos.v1 import sequences_pb2
from numpy.typing import NDArray

from keepgate_client import errors
from keepgate_client._frames import Frame, FrameInputs, Work, frame_from_proto, renumbered
from keepgate_client._futures import Completion, F
from keepgate_client._members import BIND_ROWS, UNBOUND, Members
from keepgate_client._multiplex import SWEEP_SECONDS
from keepgate_client._parts import Part, Parts
from keepgate_client._retry import RetryPolicy, is_retriable
from keepgate_client._rpc import error_from_status

Refusals = dict[int, errors.KeepgateError]
"""Errors by row of a frame."""


class GroupCore(Generic[F]):
    """The state of a group. Every row of a frame that is under way is in just one of the frame's parts."""

    def __init__(self, members: Members, retry: RetryPolicy) -> None:
        self._members = members
        self._retry = retry
        self._works: set[Work[F]] = set()
        self._parts: Parts[F] = Parts()
        self._done: list[Completion[F]] = []
        self._asked = False  # the first bind of this call is on its way or answered
        self._first_binds: set[int] = set()
        self._failures = 0
        self._next_sweep = 0.0

    @property
    def idle(self) -> bool:
        """No frame waits for an answer."""
        return not self._works and not self._done

    def submit(
        self,
        rows: NDArray[np.int64] | None,
        inputs: FrameInputs,
        log_probabilities: bool,
        future: F,
        deadline: float,
    ) -> None:
        """Queue a frame. Raises ValueError for rows that cannot be in it."""
        self._members.take(rows)
        count = len(self._members) if rows is None else len(rows)
        work = Work(rows, count, inputs, log_probabilities, future, deadline, count)
        self._works.add(work)
        self._launch(Part(work, None))

    def next_message(self, now: float) -> sequences_pb2.FramesRequest | None:
        if self._parts.postponed:
            for part in self._parts.due(now):
                self._launch(part)
        return self._parts.next_message()

    def wait_seconds(self, now: float) -> float | None:
        if self._done:
            return 0.0
        if not self._works:
            return None
        times = [part.resume_at for part in self._parts.postponed]
        return max(0.0, min([self._next_sweep, *times]) - now)

    def receive(self, response: sequences_pb2.FramesResponse, now: float) -> list[Completion[F]]:
        if response.request_id in self._parts.binds:
            self._bind_answered(response, now)
            return self._completed()
        self._failures = 0
        part = self._parts.sent.pop(response.request_id, None)
        if part is None:
            return []  # of a frame that was given up
        if response.WhichOneof("result") == "frame":
            self._answered(part, response.frame, now)
        else:
            self._refuse(part, renumbered(error_from_status(response.error), part.places), now)
        return self._completed()

    def broken(self, error: errors.KeepgateError) -> tuple[float | None, list[Completion[F]]]:
        self._failures = self._failures + 1 if self._works else 1
        delay = self._retry.delay(self._failures, error)
        if delay is None:
            return None, self.fail_all(error)
        self._call_over()
        if self._parts.waiting:
            self._bind_all()
        return delay, self._completed()

    def fail_all(self, error: errors.KeepgateError) -> list[Completion[F]]:
        self._fail_parts(error)
        return self._completed()

    def expire(self, now: float) -> list[Completion[F]]:
        """Give up on the rows without an answer of frames whose deadline passed.

        Whether what was sent is applied stays open, and late answers are ignored. So the positions stay
        where they were, and the same frame submitted again finds its answer.
        """
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            late = {work for work in self._works if work.deadline <= now}
            error = errors.DeadlineExceededError(
                "no answer to a frame within the timeout", code=StatusCode.DEADLINE_EXCEEDED
            )
            for part in self._parts.remove(late) if late else ():
                self._give_up(part, error)
        return self._completed()

    # --- the ways of a part ---

    def _launch(self, part: Part[F]) -> None:
        """Send a part, as far as its sessions are bound; see to it that the others get bound."""
        if not self._asked:
            self._bind_all()
        if self._first_binds:
            self._parts.waiting.append(part)
        elif not part.work.count:  # it only waited for that
            self._finish(part.work)
        elif not self._members.unbound:
            self._send(part)
        else:
            self._launch_bound(part)

    def _launch_bound(self, part: Part[F]) -> None:
        members, places = self._members, part.all_places()
        rows = np.arange(len(members))[part.rows()]
        bound = members.handles[rows] != UNBOUND
        again: list[int] = []
        for place, row in zip(places[~bound].tolist(), rows[~bound].tolist(), strict=True):
            error = members.refused.get(row)
            if error is None or is_retriable(error):
                again.append(place)
            else:
                self._fail_row(part.work, place, error)
        if bound.any():
            self._send(part.some(places[bound]))
        for first in range(0, len(again), BIND_ROWS):
            rest = part.some(np.array(again[first : first + BIND_ROWS]))
            self._bind(np.arange(len(members))[rest.rows()], rest)
        self._finish(part.work)

    def _send(self, part: Part[F]) -> None:
        rows, frame = part.rows(), self._parts.send(part)
        frame.handles = self._members.handles[rows].astype("<u8", copy=False).tobytes()
        frame.positions = self._members.positions[rows].astype("<u8", copy=False).tobytes()
        part.work.inputs.fill(frame, part.places)
        frame.log_probabilities = part.work.log_probabilities

    def _answered(self, part: Part[F], answer: sequences_pb2.FrameAnswer, now: float) -> None:
        work, rows = part.work, part.rows()
        frame = frame_from_proto(answer, len(part))
        if part.places is None and not answer.errors:
            self._members.went_on(rows)
            work.left = 0
            self._complete(work, frame)
            return
        places = part.all_places()
        good = np.ones(len(part), np.bool_)
        good[[error.row for error in answer.errors]] = False
        work.merge(places, good, frame)
        work.left -= int(np.count_nonzero(good))
        self._members.went_on(np.arange(len(self._members))[rows][good])
        self._refuse_rows(part, {int(places[e.row]): error_from_status(e.status) for e in answer.errors}, now)

    def _refuse_rows(self, part: Part[F], refusals: Refusals, now: float) -> None:
        """Rows were refused one by one: send them again later where that may help."""
        again: list[int] = []
        wait = 0.0
        for place, error in refusals.items():
            delay = self._retry.delay(part.failures + 1, error)
            if delay is None or now + delay >= part.work.deadline:
                self._fail_row(part.work, place, error)
            else:
                again.append(place)
                wait = max(wait, delay)
        if again:
            self._parts.postponed.append(
                Part(part.work, np.array(again), part.failures + 1, min(now + wait, part.work.deadline))
            )
        self._finish(part.work)

    def _refuse(self, part: Part[F], error: errors.KeepgateError, now: float) -> None:
        """A whole message was refused."""
        part.failures += 1
        delay = self._retry.delay(part.failures, error)
        if delay is None or now + delay >= part.work.deadline:
            self._give_up(part, error)
        else:
            part.resume_at = now + delay
            self._parts.postponed.append(part)

    def _give_up(self, part: Part[F], error: errors.KeepgateError) -> None:
        part.work.whole = error
        for place in part.all_places().tolist():
            self._fail_row(part.work, place, error)
        self._finish(part.work)

    def _fail_row(self, work: Work[F], place: int, error: errors.KeepgateError) -> None:
        work.errors[place] = error
        work.left -= 1
        self._members.failed(place if work.rows is None else int(work.rows[place]), error)

    def _finish(self, work: Work[F]) -> None:
        if not work.left:
            self._complete(work, work.outcome())

    def _complete(self, work: Work[F], outcome: Frame | errors.KeepgateError) -> None:
        if work in self._works:
            self._works.remove(work)
            self._members.busy[slice(None) if work.rows is None else work.rows] = False
            self._done.append((work.future, outcome))

    def _completed(self) -> list[Completion[F]]:
        done, self._done = self._done, []
        return done

    def _fail_parts(self, error: errors.KeepgateError) -> None:
        self._failures = 0
        for part in self._parts.remove(self._works.copy()):
            self._give_up(part, error)
        self._call_over()

    def _call_over(self) -> None:
        self._parts.call_over()
        self._first_binds.clear()
        self._asked = False
        self._members.unbind()

    # --- binding ---

    def _bind_all(self) -> None:
        self._asked = True
        rows = np.arange(len(self._members))
        for first in range(0, len(rows), BIND_ROWS):
            self._first_binds.add(self._bind(rows[first : first + BIND_ROWS], None))

    def _bind(self, rows: NDArray[np.int64], part: Part[F] | None) -> int:
        return self._parts.bind(rows, part, self._members.bind_message(rows))

    def _bind_answered(self, response: sequences_pb2.FramesResponse, now: float) -> None:
        rows, part = self._parts.binds.pop(response.request_id)
        is_first = response.request_id in self._first_binds
        self._first_binds.discard(response.request_id)
        if response.WhichOneof("result") != "bound":
            error = error_from_status(response.error)
            if part is not None:
                self._refuse(part, error, now)
            elif is_first:
                self._fail_parts(error)
            return
        refusals = {error.row: error_from_status(error.status) for error in response.bound.errors}
        self._members.bound(rows, response.bound)
        self._members.refused.update({int(rows[row]): error for row, error in refusals.items()})
        if part is not None:
            places = part.all_places()
            good = np.delete(places, list(refusals))
            if len(good):
                self._send(part.some(good))
            self._refuse_rows(part, {int(places[row]): error for row, error in refusals.items()}, now)
        elif not self._first_binds:
            for waiting in self._parts.take_waiting():
                self._launch(waiting)
