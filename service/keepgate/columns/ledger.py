"""Which sessions are bound to handles, where each of them is, and what they have not been told yet.

What frames did to a session lies in a log till the session itself must know, because somebody asks for it, or
the log is long: then the log is settled.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
from keepgate_kernels import Sampling
from keepgate_kernels.lane import ANSWERED, one_input_each
from numpy.typing import NDArray

from keepgate.columns.rows import Rows, by_rows
from keepgate.errors import InvalidArgumentError, SessionBusyError, SessionGoneError
from keepgate.models.registry import LoadedModel
from keepgate.request import Options
from keepgate.sessions.durability import Durability
from keepgate.sessions.history import History
from keepgate.sessions.session import NO_SLOT, Session

if TYPE_CHECKING:
    from keepgate.directory import Outcome
    from keepgate.sequences import Sequences

LOG_STEPS, LOG_FRAMES, LOG_BYTES = 256, 1_024, 16 << 20
"""After so many steps of each session, or so much, the log is settled: it takes memory, and that time."""
SETTLE_SECONDS = 0.1
"""How long the history of a session that is to be stored may be behind."""
KNOWN_COLUMNS = 16
"""Columns of handles that are not checked again: a client sends the same ones over and over."""
FIRST_CAPACITY = 64


class Ledger:
    """Sessions of one model version, each at a handle. A `Bound` of sessions. Used from the event loop.

    Arrays by handle. slots: NO_SLOT where the session's state is not to be counted on; tails: the position
    after all that is under way; flying: frames under way; bases: where the history's last segment begins;
    last_used: the time of the last frame; touched: whether there was one since the slot was last asked for;
    durable: whether a store is to know; drawn: how tokens are drawn; order: scratch. version: changes with
    what `Rows` remember of slots, durable and drawn.
    """

    def __init__(self, sequences: Sequences, model: LoadedModel) -> None:
        self.model = model
        self.sequences = sequences
        self.residents = sequences.residents(model.key)
        self.codec = self.residents.codec
        self.sessions: list[Session[Outcome] | None] = []
        self.options: list[Options] = []
        self.handles: dict[Session[Outcome], int] = {}
        self.gone: dict[int, SessionGoneError] = {}  # by the handles of sessions that have ended
        self._free: list[int] = []
        self._known: dict[bytes, Rows] = {}  # columns that were checked
        self.version = 0
        self.slots = np.full(FIRST_CAPACITY, NO_SLOT, np.int64)
        self.tails = np.zeros(FIRST_CAPACITY, np.uint64)
        self.bases = np.zeros(FIRST_CAPACITY, np.uint64)
        self.flying = np.zeros(FIRST_CAPACITY, np.int32)
        self.last_used = np.zeros(FIRST_CAPACITY, np.float64)
        self.touched = np.zeros(FIRST_CAPACITY, np.bool_)
        self.durable = np.zeros(FIRST_CAPACITY, np.bool_)
        self.drawn = np.zeros(FIRST_CAPACITY, ANSWERED)
        self.order = np.zeros(FIRST_CAPACITY, np.int64)  # scratch, to find a handle that comes twice
        self.is_bound = np.zeros(FIRST_CAPACITY, np.bool_)
        self.log: list[tuple[Rows, NDArray[Any]]] = []
        self.log_bytes = self.log_rows = 0
        self._kept: dict[int, list[tuple[int, bytes]]] = {}  # by handle: states by their positions
        self.is_behind = False  # whether anything happened since the sessions were told
        self._over: set[Session[Outcome]] = set()  # ended while a frame was under way
        self.closing = False
        self.timer: asyncio.TimerHandle | None = None

    # --- handles ---

    def bind(self, session: Session[Outcome], sampling: Sampling) -> int:
        """A handle of a session of this model; from now on it is stepped here alone.

        Raises SessionInUseError, SessionGoneError, SessionBusyError.
        """
        handle = self.handles.get(session)
        if handle is None:
            self.sequences.table.check_owner(session, self)
        self.settle()
        self.sequences.check_idle(session)
        if handle is None:
            self.sequences.table.claim(session, self)
            handle = self._new_handle()
            self.handles[session] = handle
            self.sessions[handle] = session
            self.is_bound[handle] = True
            session.bound = self
        self.options[handle] = Options(sampling)
        self.drawn[handle] = sampling.as_record()
        self.durable[handle] = session.keeping.durability is not Durability.NONE
        self.last_used[handle] = session.last_used
        self.version += 1
        self.promote(session, handle)
        return handle

    def unbind(self, handles: NDArray[np.uint64]) -> None:
        """Take handles back. Raises InvalidArgumentError, SessionBusyError; then none was taken back."""
        self.check(handles, "unbind.handles")
        self.settle()
        for handle in handles.tolist():
            session = self.sessions[handle]
            if session is not None and session.ended is None:
                self.sequences.check_idle(session)
            elif session is not None and self.flying[handle]:
                raise SessionBusyError(session.session_id, int(self.flying[handle]))
        for handle in handles.tolist():
            self._let_go(handle)

    def close(self) -> None:
        """Let go of all sessions, as soon as nothing of them is under way."""
        self.closing = True
        self.settle()
        if not self.flying.any():
            for handle in range(len(self.sessions)):
                self._let_go(handle)

    def rows(self, column: bytes, field: str) -> Rows:
        """The handles of a column of uint64 that are bound, and each once. Raises InvalidArgumentError."""
        known = self._known.get(column)
        if known is None:
            known = self._check_once(np.frombuffer(column, "<u8"), field)
            if len(self._known) == KNOWN_COLUMNS:
                self._known.clear()
            self._known[column] = known
        return known

    def _check_once(self, named: NDArray[np.uint64], field: str) -> Rows:
        self.check(named, field)
        handles, count = named.astype(np.int64), len(named)
        self.order[handles] = np.arange(count)
        twice = self.order[handles] != np.arange(count)
        if twice.any():
            row = int(np.argmax(twice))
            raise InvalidArgumentError(f"{field}[{row}]", f"{handles[row]} again", "each handle once")
        return Rows(handles)

    def refresh(self, rows: Rows) -> None:
        """Have rows remember what they may rely on, if that has changed."""
        if rows.version == self.version:
            return
        slots = self.slots[rows.index]
        rows.ready = bool((slots != NO_SLOT).all())
        rows.durable = bool(self.durable[rows.index].any())
        if rows.ready:
            rows.records = one_input_each(self.model.spec, slots, self.drawn[rows.index])
        rows.version = self.version

    def check(self, handles: NDArray[np.uint64], field: str) -> None:
        count = len(self.sessions)
        known = handles < count
        if known.all():
            known = self.is_bound[handles.astype(np.int64)]
        if not known.all():
            row = int(np.argmin(known))
            raise InvalidArgumentError(f"{field}[{row}]", str(handles[row]), "a handle of a bound session")

    # --- what the table and the slots ask: see `Bound` ---

    def settle(self) -> None:
        """Tell the sessions what became of them: their histories, positions and what is under way."""
        if not self.is_behind:
            return
        self.is_behind = False
        self.write_log()
        for handle in np.flatnonzero(self.flying).tolist():
            session = self.sessions[handle]
            if session is not None:
                session.tail = session.position + int(self.flying[handle])

    def suspend(self, session: Session[Any]) -> None:
        self.settle()
        handle = self.handles[session]
        self.slots[handle] = NO_SLOT
        self.version += 1
        if session.ended is not None:  # nothing of it is in flight: keep no more of it than what to say
            self.gone[handle] = session.ended(session.session_id)
            self._over.discard(session)
            session.bound = None
            self.sessions[handle] = None
            del self.handles[session]

    def over(self, session: Session[Any]) -> None:
        self._over.add(session)

    def used(self, session: Session[Any]) -> float:
        return float(self.last_used[self.handles[session]])

    def spares(self, session: Session[Any]) -> bool:
        handle = self.handles[session]
        if self.touched[handle] or self.flying[handle]:
            self.touched[handle] = False
            return False
        self.suspend(session)
        return True

    # --- what frames do ---

    def note(self, rows: Rows, inputs: NDArray[Any]) -> None:
        """These sessions were stepped."""
        self.log.append((rows, inputs))
        self.log_bytes += inputs.nbytes
        self.log_rows += len(rows)

    @property
    def log_is_long(self) -> bool:
        """Whether it should be settled."""
        if len(self.log) >= LOG_FRAMES or self.log_bytes >= LOG_BYTES:
            return True
        return self.log_rows >= LOG_STEPS * len(self.sessions)

    def keep(self, handle: int, position: int, state: bytes) -> None:
        """The state of a session at a position that the log has, or the history already."""
        self._kept.setdefault(handle, []).append((position, state))

    def promote(self, session: Session[Outcome], handle: int) -> None:
        """Count on the session's state from now on, if it is at rest in a slot of its own."""
        if self.slots[handle] != NO_SLOT or session.ended is not None:
            return
        if self.handles.get(session) != handle:  # it was bound anew while this row was on its way
            return
        if session.keeping.durability is Durability.ALWAYS or not self.residents.is_ready(session):
            return
        self.slots[handle] = session.slot
        self.version += 1
        self.tails[handle] = session.position
        self.bases[handle] = session.keeping.known.segments[-1].start

    def end_those_over(self) -> None:
        self.settle()
        for session in list(self._over):
            if not self.flying[self.handles[session]]:
                self._over.discard(session)
                self.sequences.settle_end(session)

    def write_log(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        log, self.log = self.log, []
        self.log_bytes = self.log_rows = 0
        if not log:
            return
        for handles, inputs in by_rows(log, len(self.sessions)):
            steps = inputs.shape[1]
            run = self.codec.encode_steps(inputs.reshape(-1, *inputs.shape[2:]))
            size = steps * self.codec.step_bytes
            for row, handle in enumerate(handles.tolist()):
                session = self.sessions[handle]
                if session is not None and session.keeping.history is not None:
                    self._write(session.keeping.history, handle, run[row * size : (row + 1) * size])
                    self._tell(session, handle, steps)
        self._kept.clear()

    # --- inside ---

    def _tell(self, session: Session[Outcome], handle: int, steps: int) -> None:
        session.position += steps
        session.tail = session.position + int(self.flying[handle])
        session.last_used = float(self.last_used[handle])
        session.entries.clear()
        if self.durable[handle]:
            session.keeping.write()

    def _write(self, history: History, handle: int, run: bytes) -> None:
        """Append steps, with the states that were kept among them."""
        size = self.codec.step_bytes
        begin = history.position
        done = 0
        for position, state in self._kept.get(handle, ()):
            steps = position - begin
            if done < steps <= len(run) // size:
                history.append_steps(run[done * size : steps * size], steps - done, self.options[handle])
                history.keep_state(state)
                done = steps
        if done * size < len(run):
            history.append_steps(run[done * size :], len(run) // size - done, self.options[handle])

    def _let_go(self, handle: int) -> None:
        if not self.is_bound[handle]:  # the same handle twice
            return
        session = self.sessions[handle]
        if session is not None:
            if session.ended is None:
                session.owner = None
            session.bound = None
            self._over.discard(session)
            del self.handles[session]
        self.gone.pop(handle, None)
        self._known.clear()
        self.sessions[handle] = None
        self.slots[handle] = NO_SLOT
        self.version += 1
        self.is_bound[handle] = False
        self._free.append(handle)

    def _new_handle(self) -> int:
        if self._free:
            return self._free.pop()
        handle = len(self.sessions)
        self.sessions.append(None)
        self.options.append(Options())
        if handle == len(self.slots):
            self._grow(2 * handle)
        return handle

    def _grow(self, capacity: int) -> None:
        for name, old in list(vars(self).items()):
            if not isinstance(old, np.ndarray):
                continue
            new = np.zeros(capacity, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        self.slots[len(self.sessions) - 1 :] = NO_SLOT
