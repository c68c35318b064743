"""The sessions of a group: who they are, where they are, and which of them are bound. No I/O.

B is the number of sessions; a row is a session's place in their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from keepgate_protos.v1 import sequences_pb2
from numpy.typing import ArrayLike, NDArray

from keepgate_client import _convert, errors
from keepgate_client._session import SessionBase, SessionState

UNBOUND = 2**64 - 1
"""The handle of a session that is not bound."""
BIND_ROWS = 4096
"""Sessions bound by one message: with the longest ids it stays far below a server's limit of 4 MiB."""

Index = NDArray[np.int64] | slice


class Members:
    """Arrays by row: positions, before the next input; known, whether they are; handles; busy, whether the
    row is in a frame under way.

    refused: why rows are not bound, as far as it is known. unbound: how many rows are not bound.
    """

    def __init__(
        self, sessions: Iterable[SessionBase | str], options: _convert.StepOptions, seeds: ArrayLike
    ) -> None:
        self.ids: list[str] = []
        self._states: list[SessionState | None] = []
        for session in sessions:
            state = None if isinstance(session, str) else session._state
            self.ids.append(
                state.session_id if state is not None else _convert.unicode("sessions", str(session))
            )
            self._states.append(state)
        self._check()
        count = len(self.ids)
        self._sampling = options.sampling()
        self._seeds = _seeds(seeds, count)
        self.positions = np.zeros(count, np.uint64)
        self.known = np.zeros(count, np.bool_)
        self.handles = np.full(count, UNBOUND, np.uint64)
        self.unbound = count
        self.busy = np.zeros(count, np.bool_)
        self.refused: dict[int, errors.KeepgateError] = {}
        self._order = np.zeros(count, np.int64)  # scratch, to find a row that comes twice
        self._held = False

    def __len__(self) -> int:
        return len(self.ids)

    # --- the session objects ---

    def acquire(self) -> None:
        """Take hold of the session objects, if it is not done. Raises SessionBusyError; then none is held."""
        if self._held:
            return
        taken: list[SessionState] = []
        try:
            for row, state in enumerate(self._states):
                if state is not None:
                    state.acquire("group")
                    taken.append(state)
                    self.positions[row] = state.position
                    self.known[row] = True
        except errors.SessionBusyError:
            for state in taken:
                state.release()
            raise
        for row, state in enumerate(self._states):
            if state is not None:
                state.where = partial(self._where, row)
        self._held = True

    def release(self) -> None:
        """Tell the session objects where they are, and let go of them."""
        if not self._held:
            return
        self._held = False
        for state, position in zip(self._states, self.positions.tolist(), strict=True):
            if state is not None:
                if position != state.position:
                    state.moved(position)
                state.where = None
                state.release()

    def _where(self, row: int) -> int:
        return int(self.positions[row])

    # --- rows ---

    def take(self, rows: NDArray[np.int64] | None) -> None:
        """These rows (None: all) are in a frame from now on. Raises ValueError for wrong ones."""
        if rows is None:
            if self.busy.any():
                raise _under_way(int(np.argmax(self.busy)))
            self.busy[:] = True
            return
        wrong = (rows < 0) | (rows >= len(self))
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(f"rows[{place}]: got {rows[place]}, expected a row of {len(self)} sessions")
        places = np.arange(len(rows))
        self._order[rows] = places
        twice = self._order[rows] != places
        if twice.any():
            raise ValueError(f"rows: got {rows[int(np.argmax(twice))]} twice, expected each row once")
        busy = self.busy[rows]
        if busy.any():
            raise _under_way(int(rows[int(np.argmax(busy))]))
        self.busy[rows] = True

    def went_on(self, rows: Index) -> None:
        """One more input of each of them is applied."""
        self.positions[rows] += np.uint64(1)

    def failed(self, row: int, error: errors.KeepgateError) -> None:
        """A step of a row was refused for good."""
        if isinstance(error, errors.StepsLostError) and error.expected_position is not None:
            self.positions[row] = error.expected_position
        elif isinstance(error, errors.SessionGoneError):
            self.refused[row] = error
            self.unbound += int(self.handles[row] != UNBOUND)
            self.handles[row] = UNBOUND

    # --- binding ---

    def unbind(self) -> None:
        """The call is over, and with it what it had bound."""
        self.handles[:] = UNBOUND
        self.unbound = len(self)
        self.refused.clear()

    def bind_message(self, rows: NDArray[np.int64]) -> sequences_pb2.Bind:
        """What binds these rows."""
        return sequences_pb2.Bind(
            session_ids=[self.ids[row] for row in rows.tolist()],
            sampling=self._sampling,
            seeds=self._seeds[rows].astype("<u8", copy=False).tobytes(),
        )

    def bound(self, rows: NDArray[np.int64], answer: sequences_pb2.Bound) -> None:
        """The answer to that, less its errors."""
        handles = np.frombuffer(answer.handles, "<u8")
        self.unbound += int(np.count_nonzero(self.handles[rows] != UNBOUND))
        self.handles[rows] = handles
        good = handles != UNBOUND
        self.unbound -= int(np.count_nonzero(good))
        new = good & ~self.known[rows]
        self.positions[rows[new]] = np.frombuffer(answer.positions, "<u8")[new]
        self.known[rows[new]] = True
        for row in rows[good].tolist() if self.refused else ():
            self.refused.pop(row, None)

    def _check(self) -> None:
        if not self.ids:
            raise ValueError("sessions: got none, expected at least one")
        rows: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            if rows.setdefault(name, row) != row:
                raise ValueError(f"sessions[{row}]: got {name!r} again, expected each session once")
        models = {(s.model, s.version): s for s in self._states if s is not None}
        if len(models) > 1:
            names = " and ".join(" ".join(key) for key in list(models)[:2])
            raise ValueError(f"sessions: got sessions of {names}, expected one model version")


def _under_way(row: int) -> ValueError:
    return ValueError(f"row {row} is in a frame under way, expected one whose last frame is answered")


def _seeds(seeds: ArrayLike, count: int) -> NDArray[np.uint64]:
    # Not as NumPy mixes them: an int of 2**63 and a smaller one make floats.
    array: NDArray[Any] = seeds if isinstance(seeds, np.ndarray) else np.asarray(seeds, np.object_)
    integers = array.dtype.kind in "iu" or all(isinstance(seed, int | np.integer) for seed in array.flat)
    if not integers or array.shape not in ((), (count,)):
        got = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"seeds: got {got}, expected one integer, or {count}, one for each session")
    low, high = (0, 0) if not array.size else (int(array.min()), int(array.max()))
    _convert.unsigned("seeds", low if low < 0 else high, 64)
    return np.broadcast_to(array.astype(np.uint64), (count,))
