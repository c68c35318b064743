"""Parts of frames: where each of them is between submission and answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from typing import Generic

import numpy as np
from keepgate_protos.v1 import sequences_pb2
from numpy.typing import NDArray

from keepgate_client._frames import Work
from keepgate_client._futures import F
from keepgate_client._members import Index


@dataclass(slots=True, eq=False)
class Part(Generic[F]):
    """Rows of a frame that are together: places [P] in the frame, None for all of it.

    failures: refusals in a row. resume_at: when to send again, if waiting was asked for.
    """

    work: Work[F]
    places: NDArray[np.int64] | None
    failures: int = 0
    resume_at: float = 0.0

    def __len__(self) -> int:
        return self.work.count if self.places is None else len(self.places)

    def all_places(self) -> NDArray[np.int64]:
        return np.arange(self.work.count) if self.places is None else self.places

    def rows(self) -> Index:
        """Those of the group."""
        if self.work.rows is None:
            return slice(None) if self.places is None else self.places
        return self.work.rows if self.places is None else self.work.rows[self.places]

    def some(self, places: NDArray[np.int64]) -> Part[F]:
        return Part(self.work, places, self.failures)


class Parts(Generic[F]):
    """Every part is in one place: waiting for the sessions to be bound, sent, with a bind, or postponed.

    binds: by request, the rows of the group that are being bound, and the part that waits for them, if any.
    """

    def __init__(self) -> None:
        self.waiting: deque[Part[F]] = deque()
        self.sent: dict[int, Part[F]] = {}
        self.binds: dict[int, tuple[NDArray[np.int64], Part[F] | None]] = {}
        self.postponed: list[Part[F]] = []
        self._outbox: deque[sequences_pb2.FramesRequest] = deque()
        self._last_id = 0

    def send(self, part: Part[F]) -> sequences_pb2.Frame:
        """The frame of the message, to be filled."""
        self._last_id += 1
        self.sent[self._last_id] = part
        message = sequences_pb2.FramesRequest(request_id=self._last_id)
        self._outbox.append(message)
        return message.frame

    def bind(self, rows: NDArray[np.int64], part: Part[F] | None, bind: sequences_pb2.Bind) -> int:
        """The request's id."""
        self._last_id += 1
        self.binds[self._last_id] = rows, part
        self._outbox.append(sequences_pb2.FramesRequest(request_id=self._last_id, bind=bind))
        return self._last_id

    def next_message(self) -> sequences_pb2.FramesRequest | None:
        while self._outbox:
            message = self._outbox.popleft()
            if message.request_id in self.sent or message.request_id in self.binds:
                return message  # else it was given up
        return None

    def due(self, now: float) -> list[Part[F]]:
        """Those that were postponed till now; they are no more."""
        due = [part for part in self.postponed if part.resume_at <= now]
        for part in due:
            self.postponed.remove(part)
        return due

    def take_waiting(self) -> list[Part[F]]:
        """Those that waited; they do no more."""
        waiting = list(self.waiting)
        self.waiting.clear()
        return waiting

    def call_over(self) -> None:
        """What was sent waits again."""
        self.waiting.extend(self.sent.values())
        self.waiting.extend(part for _, part in self.binds.values() if part is not None)
        self.sent.clear()
        self.binds.clear()
        self._outbox.clear()

    def remove(self, works: Set[Work[F]]) -> list[Part[F]]:
        """Those of some frames, which are nowhere any more. Binds go on: their answers tell the handles."""
        places = (self.waiting, self.sent.values(), self.postponed)
        removed = [part for parts in places for part in parts if part.work in works]
        self.waiting = deque(part for part in self.waiting if part.work not in works)
        self.sent = {key: part for key, part in self.sent.items() if part.work not in works}
        self.postponed = [part for part in self.postponed if part.work not in works]
        for key, (rows, bound) in self.binds.items():
            if bound is not None and bound.work in works:
                removed.append(bound)
                self.binds[key] = rows, None
        return removed
