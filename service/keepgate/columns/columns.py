"""Frames of bound sessions, as the engine and the session table take them.

What a step costs in the table and the history is paid once for a frame, in NumPy, where it can be: for rows
whose session is at rest in a slot of its own and is asked for its next position. All other rows, such as
those that are sent again, are ordinary steps.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepgate.columns.answer import Answer
from keepgate.columns.ledger import SETTLE_SECONDS, Ledger, Rows
from keepgate.directory import Outcome
from keepgate.engine.frame import Frame
from keepgate.engine.job import Job, Prediction
from keepgate.errors import (
    ComputationError,
    DrainingError,
    NotFiniteError,
    RequestError,
    SessionBusyError,
    StoreUnavailableError,
)
from keepgate.sessions.durability import Durability
from keepgate.sessions.session import NO_SLOT, Session

KEPT_ROWS = 32
"""States that one frame keeps at most, lest all sessions that began together keep theirs in the same one."""


class Columns(Ledger):
    """Steps of the bound sessions, a row each."""

    def step(self, handles: Rows, positions: NDArray[np.uint64], inputs: NDArray[Any]) -> Answer:
        """Apply one input to each of the sessions of some handles.

        handles [B]: as `rows` gave them; positions [B]: the sessions', before the input; inputs: uint32 [B]
        or float32 [B, K], valid. Raises StepsExhaustedError, DrainingError; then nothing was applied.
        """
        sequences = self.sequences
        if sequences.draining.is_set():
            raise DrainingError
        count = len(handles)
        sequences.pending.check(count)
        answer = Answer(count, 0 if self.model.vocabulary_size else self.model.spec.head.size)
        quick = (self.slots[handles] != NO_SLOT) & (self.tails[handles] == positions)
        durable = self.durable[handles]
        if durable.any() and self._store_fails():
            quick &= ~durable
        if quick.all():
            self._fly(handles, None, inputs, answer)
        else:
            rows = np.flatnonzero(quick)
            if len(rows):
                self._fly(handles[rows], rows, inputs[rows], answer)
            self.settle()
            for row in np.flatnonzero(~quick).tolist():
                self._step_alone(row, int(handles[row]), int(positions[row]), inputs[row : row + 1], answer)
        answer.arrived()
        return answer

    # --- rows that the engine takes as they are ---

    def _store_fails(self) -> bool:
        try:
            self.sequences.keeper.check_usable(Durability.EVERYSEC)
        except StoreUnavailableError:
            return True
        return False

    def _fly(
        self, handles: NDArray[np.int64], rows: NDArray[np.int64] | None, inputs: NDArray[Any], answer: Answer
    ) -> None:
        """Give the engine rows of an answer (None: all) that it can compute as they are."""
        limit = self.sequences.settings.max_batch
        if len(handles) <= limit:
            self._fly_part(handles, slice(None) if rows is None else rows, inputs, answer)
            return
        for first in range(0, len(handles), limit):
            part = slice(first, first + limit)
            self._fly_part(handles[part], part if rows is None else rows[part], inputs[part], answer)

    def _fly_part(
        self,
        handles: NDArray[np.int64],
        rows: NDArray[np.int64] | slice,
        inputs: NDArray[Any],
        answer: Answer,
    ) -> None:
        positions = self.tails[handles]
        ends = positions + np.uint64(1)
        self.tails[handles] = ends
        self.flying[handles] += 1
        self.touched[handles] = True
        self.last_used[handles] = self.sequences.now()
        interval = np.uint64(self.sequences.settings.snapshot_steps)
        kept = np.flatnonzero(ends - self.bases[handles] >= interval)[:KEPT_ROWS]
        self.bases[handles[kept]] = ends[kept]
        frame = Frame(
            self.slots[handles],
            inputs,
            positions,
            self.drawn[handles],
            kept,
            lambda: self._landed(frame, handles, rows, answer),
        )
        self.sequences.pending.add(len(handles))
        answer.expect()
        self.residents.submit_frame(frame)

    def _landed(
        self, frame: Frame, handles: NDArray[np.int64], rows: NDArray[np.int64] | slice, answer: Answer
    ) -> None:
        self.sequences.pending.drop(len(handles))
        self.flying[handles] -= 1
        well = frame.finite if frame.error is None else np.zeros(len(handles), np.bool_)
        if well.all():
            self.note(handles, frame.inputs)
            self._give(frame, rows, answer)
        else:
            self.note(handles[well], frame.inputs[well])
            self._fail(frame, handles, well, rows, answer)
        for row, state in zip(frame.kept.tolist(), frame.states, strict=False):  # none after an error
            if well[row]:
                self.keep(int(handles[row]), int(frame.positions[row]) + 1, state)
        if self.log_is_long:
            self.write_log()
        elif self.timer is None and self.durable[handles].any():
            self.timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.write_log)
        if self._over:
            self.end_those_over()
        if self.closing:
            self.close()
        answer.arrived()
        self.residents.serve_queue()

    def _give(self, frame: Frame, rows: NDArray[np.int64] | slice, answer: Answer) -> None:
        if frame.outputs is not None:
            answer.outputs[rows] = frame.outputs
        elif frame.tokens is not None and frame.log_probabilities is not None:
            answer.tokens[rows] = frame.tokens
            answer.log_probabilities[rows] = frame.log_probabilities

    def _fail(
        self,
        frame: Frame,
        handles: NDArray[np.int64],
        well: NDArray[np.bool_],
        rows: NDArray[np.int64] | slice,
        answer: Answer,
    ) -> None:
        """Some rows have no answer: their sessions are lost."""
        places = np.arange(len(answer.tokens))[rows]
        if frame.error is None:
            self._give(frame, rows, answer)
        for row in np.flatnonzero(~well).tolist():
            place = int(places[row])
            answer.tokens[place] = 0
            answer.log_probabilities[place] = 0
            answer.outputs[place] = 0
            answer.errors[place] = ComputationError() if frame.error is not None else NotFiniteError()
            session = self.sessions[handles[row]]
            self.slots[handles[row]] = NO_SLOT
            self.tails[handles[row]] -= np.uint64(1)
            if session is not None and session.ended is None:
                self.sequences.lose(session)

    # --- rows that are ordinary steps ---

    def _step_alone(self, row: int, handle: int, position: int, inputs: NDArray[Any], answer: Answer) -> None:
        session = self.sessions[handle]
        if session is None:
            answer.errors[row] = self.gone[handle].with_traceback(None)
            return
        if self.flying[handle] and session.position <= position < session.tail:
            # It came again before it was answered: later there will be an answer to give once more.
            answer.errors[row] = SessionBusyError(session.session_id, session.tail - session.position)
            return
        try:
            job, replayed = self.sequences.step(session, position, inputs, self.options[handle], owner=self)
        except RequestError as error:
            answer.errors[row] = error
            return
        answer.replayed += replayed
        answer.expect()
        job.when_done(lambda job: self._stepped(session, handle, row, job, answer))

    def _stepped(self, session: Session[Outcome], handle: int, row: int, job: Job, answer: Answer) -> None:
        if job.error is not None:
            answer.errors[row] = job.error
        elif isinstance(job.reply, Prediction):
            answer.tokens[row] = job.reply.token
            answer.log_probabilities[row] = job.reply.log_probability
            if job.reply.outputs is not None:
                answer.outputs[row] = job.reply.outputs
        if session.bound is self:
            self.promote(session, handle)
        answer.arrived()
