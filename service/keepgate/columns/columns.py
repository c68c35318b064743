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
from keepgate.columns.ledger import SETTLE_SECONDS, Ledger
from keepgate.columns.rows import Rows
from keepgate.directory import Outcome
from keepgate.engine.engine import MAX_INPUTS
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

ONE = np.uint64(1)
KEPT_ROWS = 128
"""States that one frame keeps at most, lest all sessions that began together keep theirs in the same one."""
KEEP_EVERY = 4
"""Frames of the same rows of which one looks for states to keep."""
NOTHING = np.zeros(0, np.intp)


class Columns(Ledger):
    """Steps of the bound sessions, a row each."""

    def step(self, rows: Rows, positions: NDArray[np.uint64], inputs: NDArray[Any]) -> Answer:
        """Apply one input to each of the sessions of some rows.

        rows: as `Ledger.rows` gave them; positions [B]: the sessions', before the input; inputs: uint32 [B]
        or float32 [B, K], valid. Raises StepsExhaustedError, DrainingError; then nothing was applied.
        """
        sequences = self.sequences
        if sequences.draining.is_set():
            raise DrainingError
        sequences.pending.check(len(rows))
        answer = Answer(len(rows), 0 if self.model.vocabulary_size else self.model.spec.head.size)
        self.refresh(rows)
        if rows.ready and bool((self.tails[rows.index] == positions).all()) and self._may_store(rows):
            self._fly(rows, positions, inputs, answer)
        else:
            self._step_some(rows, positions, inputs, answer)
        answer.arrived()
        return answer

    def _may_store(self, rows: Rows) -> bool:
        return not (rows.durable and self._store_fails())

    def _store_fails(self) -> bool:
        try:
            self.sequences.keeper.check_usable(Durability.EVERYSEC)
        except StoreUnavailableError:
            return True
        return False

    def _step_some(
        self, rows: Rows, positions: NDArray[np.uint64], inputs: NDArray[Any], answer: Answer
    ) -> None:
        """Give the engine what it can compute as it is; the other rows are ordinary steps."""
        handles = rows.handles
        quick = (self.slots[handles] != NO_SLOT) & (self.tails[handles] == positions)
        if not self._may_store(rows):
            quick &= ~self.durable[handles]
        places = np.flatnonzero(quick)
        if len(places):
            some = Rows(handles[places])
            self.refresh(some)
            self._fly(some, positions[places], inputs[places], answer, places)
        self.settle()
        for row in np.flatnonzero(~quick).tolist():
            self._step_alone(row, int(handles[row]), int(positions[row]), inputs[row : row + 1], answer)

    # --- rows that the engine takes as they are ---

    def _fly(
        self,
        rows: Rows,
        positions: NDArray[np.uint64],
        inputs: NDArray[Any],
        answer: Answer,
        places: NDArray[np.intp] | None = None,
    ) -> None:
        """Give the engine rows that are ready. places: where they are in the answer; None if they are all."""
        limit = min(self.sequences.settings.max_batch, MAX_INPUTS)
        if len(rows) <= limit:
            self._fly_part(rows, positions, inputs, answer, places)
            return
        for part, some in rows.parts(limit):
            self.refresh(some)
            where = np.arange(part.start, part.start + len(some)) if places is None else places[part]
            self._fly_part(some, positions[part], inputs[part], answer, where)

    def _fly_part(
        self,
        rows: Rows,
        positions: NDArray[np.uint64],
        inputs: NDArray[Any],
        answer: Answer,
        places: NDArray[np.intp] | None,
    ) -> None:
        index = rows.index
        ends = positions + ONE
        self.is_behind = True
        self.tails[index] = ends
        self.flying[index] += 1
        self.touched[index] = True
        self.last_used[index] = self.sequences.now()
        kept = NOTHING
        if rows.frames % KEEP_EVERY == 0:
            interval = np.uint64(self.sequences.settings.snapshot_steps)
            kept = np.flatnonzero(ends - self.bases[index] >= interval)[:KEPT_ROWS]
            self.bases[rows.handles[kept]] = ends[kept]
        rows.frames += 1
        frame = Frame(rows.records, inputs, ends, kept, lambda: self._landed(frame, rows, answer, places))
        self.sequences.pending.add(len(rows))
        answer.expect()
        self.residents.submit_frame(frame)

    def _landed(self, frame: Frame, rows: Rows, answer: Answer, places: NDArray[np.intp] | None) -> None:
        self.sequences.pending.drop(len(rows))
        self.is_behind = True
        self.flying[rows.index] -= 1
        if frame.error is None and frame.is_finite:
            self.note(rows, frame.inputs)
            answer.take(frame, places)
        else:
            self._fail(frame, rows, answer, np.arange(len(rows)) if places is None else places)
        for row, state in zip(frame.kept.tolist(), frame.states, strict=False):  # none after an error
            if frame.finite[row]:
                self.keep(int(rows.handles[row]), int(frame.ends[row]), state)
        if self.log_is_long:
            self.write_log()
        elif rows.durable and self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.write_log)
        if self._over:
            self.end_those_over()
        if self.closing:
            self.close()
        answer.arrived()
        self.residents.serve_queue()

    def _fail(self, frame: Frame, rows: Rows, answer: Answer, places: NDArray[np.intp]) -> None:
        """Some rows have no answer: their sessions are lost."""
        well = frame.finite if frame.error is None else np.zeros(len(rows), np.bool_)
        if well.any():
            self.note(Rows(rows.handles[well]), frame.inputs[well])
            answer.take(frame, places)
        for row in np.flatnonzero(~well).tolist():
            kind = ComputationError if frame.error is not None else NotFiniteError
            answer.refuse(int(places[row]), kind())
            handle = rows.handles[row]
            self.slots[handle] = NO_SLOT
            self.version += 1
            self.tails[handle] -= ONE
            session = self.sessions[handle]
            if session is not None and session.ended is None:
                self.is_behind = True  # there may be more of it under way
                self.sequences.lose(session)
            elif session is not None:  # it ended while this was on its way: that is all there will be of it
                self.settle()
                session.tail = session.position + int(self.flying[handle])

    # --- rows that are ordinary steps ---

    def _step_alone(self, row: int, handle: int, position: int, inputs: NDArray[Any], answer: Answer) -> None:
        session = self.sessions[handle]
        if session is None:
            answer.refuse(row, self.gone[handle].with_traceback(None))
            return
        if self.flying[handle] and session.position <= position < session.tail:
            # It came again before it was answered: later there will be an answer to give once more.
            answer.refuse(row, SessionBusyError(session.session_id, session.tail - session.position))
            return
        try:
            job, replayed = self.sequences.step(session, position, inputs, self.options[handle], owner=self)
        except RequestError as error:
            answer.refuse(row, error)
            return
        answer.replayed += replayed
        answer.expect()
        job.when_done(lambda job: self._stepped(session, handle, row, job, answer))

    def _stepped(self, session: Session[Outcome], handle: int, row: int, job: Job, answer: Answer) -> None:
        if job.error is not None:
            answer.refuse(row, job.error)
        elif isinstance(job.reply, Prediction):
            answer.give(row, job.reply)
        if session.bound is self:
            self.promote(session, handle)
        answer.arrived()
