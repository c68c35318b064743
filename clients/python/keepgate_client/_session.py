"""What a session object is, whether sync or asyncio: its state, and how its calls begin and end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from grpc import StatusCode
from keepgate_protos.v1 import sequences_pb2

from keepgate_client import errors


@dataclass(slots=True)
class SessionState:
    """What a session object knows: whose it is and how far it got.

    position: inputs applied, as far as answers tell.
    pending: the last generated token, which is predicted but not applied, if nothing came after it.
    where: tells the position while the session is in a group, which tells `position` at its end.
    """

    session_id: str
    model: str
    version: str
    position: int
    pending: int | None = None
    where: Callable[[], int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _user: str = ""

    @classmethod
    def of(cls, session: sequences_pb2.Session) -> Self:
        return cls(session.session_id, session.model, session.version, session.position)

    def acquire(self, user: str) -> None:
        """Reserve the session for a call. Raises SessionBusyError if another one runs."""
        if not self._lock.acquire(blocking=False):
            raise errors.SessionBusyError(
                f"session {self.session_id!r}: {user} was called while {self._user} runs; a session "
                "takes one call at a time (a stream queues steps)",
                code=StatusCode.FAILED_PRECONDITION,
                metadata={"session_id": self.session_id},
            )
        self._user = user

    def release(self) -> None:
        self._lock.release()

    @contextmanager
    def used_by(self, user: str) -> Iterator[None]:
        """Hold the session for the length of a block."""
        self.acquire(user)
        try:
            yield
        finally:
            self.release()

    def moved(self, position: int, pending: int | None = None) -> None:
        """Take over a position from an answer."""
        self.position = position
        self.pending = pending

    def lost(self, error: errors.StepsLostError) -> None:
        """Go back to what the server still has."""
        if error.expected_position is not None:
            self.moved(error.expected_position)


class SessionBase:
    """What Session and AsyncSession have in common."""

    _state: SessionState

    @property
    def session_id(self) -> str:
        """The session's id, for `attach`."""
        return self._state.session_id

    @property
    def model(self) -> str:
        """Name of the session's model."""
        return self._state.model

    @property
    def version(self) -> str:
        """Version of the model, pinned when the session was opened."""
        return self._state.version

    @property
    def position(self) -> int:
        """Inputs applied so far, as far as answers tell."""
        where = self._state.where
        return self._state.position if where is None else where()

    def __repr__(self) -> str:
        name = type(self).__name__
        where = f"{self.model} {self.version} at position {self.position}"
        return f"<{name} {self.session_id!r} of {where}>"


@contextmanager
def closing(error: BaseException | None) -> Iterator[None]:
    """Around the close at the end of a session's `with` block, which raised `error` or nothing."""
    try:
        yield
    except errors.SessionGoneError:
        return  # closed within the block, or expired: nothing is left to free
    except errors.KeepgateError as failure:
        if error is None:
            raise
        error.add_note(f"Closing the session failed as well: {failure}")
