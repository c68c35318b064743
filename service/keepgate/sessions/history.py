"""What a session's state can be made from again: states now and then, and all inputs since. Pure: no I/O.

    segment                     segment             segment
    state │ records ........... state │ records ... state │ records
    └ oldest: as far back as one can go                            └ position

The state at any position from `oldest` on is the state that its segment begins with, and the inputs in
between applied to it: kernels are deterministic. So is the answer to each record.

A history also knows what of it a store has not been told yet. A store keeps it as items: under J and a
position the records from there on, under S and a position the state there. Records go out in small runs as
they come; when a segment ends, one item takes the place of its small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepgate.request import NO_OPTIONS, Kind, Options
from keepgate.sessions.records import Codec, Record
from keepgate.sessions.segments import RECORDS, STATE, Segment, Told, item, position_of

CHANGING = 3
"""Segments at the end of which the store may not know all, though it knows those before."""


class History:
    """position: where the session is. retention: steps that one can go back at least, once there are so many.

    interval: how many steps a segment has, at least.
    """

    __slots__ = (
        "_codec",
        "_delete",
        "_interval",
        "_options",
        "_put",
        "_retention",
        "_told",
        "position",
        "segments",
    )

    def __init__(
        self,
        codec: Codec,
        retention: int,
        interval: int,
        position: int = 0,
        state: bytes | None = None,
        *,
        segments: deque[Segment] | None = None,
    ) -> None:
        """One that begins with `state` (None: zeros) at `position`, or one of `segments` up to there."""
        self._codec = codec
        self._retention = retention
        self._interval = interval
        self.position = position
        self.segments = deque((Segment(position, state),)) if segments is None else segments
        self._options: Options | None = None  # of the last record of the last segment
        self._told: dict[int, Told] = {}  # by the start of the segment
        self._put: dict[bytes, bytes] = {}
        self._delete: list[bytes] = []

    @property
    def oldest(self) -> int:
        """The first position that one can go back to."""
        return self.segments[0].start

    @property
    def nbytes(self) -> int:
        """Memory that states and records take, about."""
        return sum(len(part.records) + len(part.state or b"") for part in self.segments)

    def wants_state(self, position: int) -> bool:
        """Whether the state at `position`, once it is reached, should go to `keep_state`."""
        return position - self.segments[-1].start >= self._interval

    def append(self, kind: Kind, inputs: NDArray[Any], options: Options) -> None:
        """Inputs were applied."""
        known = None if options is self._options or options == self._options else options
        self.segments[-1].records += self._codec.encode(kind, inputs, known)
        self._options = options
        self.position += len(inputs)

    def append_steps(self, run: bytes, count: int, options: Options) -> None:
        """`count` steps of one input each were applied: `run` is what `Codec.encode_steps` made of them."""
        if options is not self._options and options != self._options:
            size = self._codec.step_bytes
            run = self._codec.give_options(run[:size], options) + run[size:]
        self.segments[-1].records += run
        self._options = options
        self.position += count

    def keep_state(self, state: bytes) -> None:
        """`state` is the one at the present position: a new segment begins, and the oldest may go.

        A state that was kept less than `interval` steps after the one before it goes now.
        """
        if self.segments[-1].start == self.position:
            return
        if len(self.segments) > 1 and self.segments[-1].start - self.segments[-2].start < self._interval:
            self._merge_last()
        if self.position - self.segments[-1].start >= self._interval:
            self._finish(self.segments[-1])
        self.segments.append(Segment(self.position, state))
        self._options = None
        self._trim()

    def find(self, position: int) -> list[Record]:
        """The request that began at `position`: one record, or a generation's prompt and what it fed.

        Empty if none began there, or that is too long ago.
        """
        found: list[Record] = []
        for record in self._records(position):
            if not found and record.start != position:
                return []
            if found and record.kind is not Kind.FEED:
                break
            if not found and record.kind is Kind.FEED:
                return []
            found.append(record)
            if record.kind in (Kind.STEP, Kind.SCORE):
                break
        return found

    def state_before(self, position: int) -> tuple[bytes | None, int, NDArray[Any] | None]:
        """A state at or before `position`, where it is, and the inputs from there to `position` if any.

        oldest <= position <= self.position.
        """
        segment = self._segment(position)
        parts = [
            record.inputs[: position - record.start]
            for record in self._codec.decode(segment.start, segment.records)
            if record.start < position
        ]
        return segment.state, segment.start, np.concatenate(parts) if parts else None

    def rewind(self, position: int) -> None:
        """Forget what came after `position`; a request that went beyond it is cut. As for `state_before`."""
        while self.segments[-1].start > position:
            segment = self.segments.pop()
            self._forget(segment)
        segment = self.segments.pop()
        records = self._codec.decode(segment.start, segment.records)
        self._forget_records(segment)
        self.segments.append(Segment(segment.start, segment.state))
        self._options = None
        self.position = segment.start
        for record in records:
            if record.start < position:
                kind = record.kind if record.end <= position else Kind.STEP
                options = record.options if record.end <= position else NO_OPTIONS
                self.append(kind, record.inputs[: position - record.start], options)

    def fork(self) -> History:
        """A copy that goes its own way. The store knows nothing of it."""
        segments = self.segments.copy()
        last = segments[-1]
        segments[-1] = Segment(last.start, last.state, bytearray(last.records))
        return History(self._codec, self._retention, self._interval, self.position, segments=segments)

    # --- the store's part ---

    def untold(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """What the store must put, after what it must delete, to know all. From now on it counts as told."""
        for index, segment in enumerate(reversed(self.segments)):
            told = self._told_of(segment)
            if told.state and told.size == len(segment.records) and index >= CHANGING:
                break
            if not told.state and segment.state is not None:
                self._put[item(STATE, segment.start)] = segment.state
                told.state = True
            if len(segment.records) > told.size:
                self._put[item(RECORDS, told.until)] = bytes(segment.records[told.size :])
                told.items.append(told.until)
                told.size = len(segment.records)
                told.until = self._end(segment)
        put, delete = self._put, self._delete
        self._put, self._delete = {}, []
        return put, delete

    @classmethod
    def restore(cls, items: Mapping[bytes, bytes], codec: Codec, retention: int, interval: int) -> History:
        """From all that `untold` told a store. Raises ValueError if something is missing."""
        states = {position_of(key): value for key, value in items.items() if key.startswith(STATE)}
        for position, state in states.items():
            if len(state) != codec.state_bytes:
                raise ValueError(f"a state of {len(state)} bytes at {position}, expected {codec.state_bytes}")
        runs = sorted((position_of(key), value) for key, value in items.items() if key.startswith(RECORDS))
        first = min([*states, *(start for start, _ in runs[:1])], default=0)
        if first and first not in states:
            raise ValueError(f"a journal begins at position {first} without the state there")
        history = cls(codec, retention, interval, first, states.get(first))
        for start, run in runs:
            if start != history.position:
                raise ValueError(f"a journal lacks what came between {history.position} and {start}")
            segment = history.segments[-1]
            if start in states and start != segment.start:
                history.segments.append(segment := Segment(start, states[start]))
            segment.records += run
            told = history._told_of(segment)
            told.items.append(start)
            told.size = len(segment.records)
            for record in codec.decode(start, run):
                history.position = record.end
            told.until = history.position
        if history.position in states and history.segments[-1].start != history.position:
            history.segments.append(Segment(history.position, states[history.position]))
        for segment in history.segments:
            history._told_of(segment).state = True
        return history

    # --- inside ---

    def _segment(self, position: int) -> Segment:
        return next(part for part in reversed(self.segments) if part.start <= position)

    def _end(self, segment: Segment) -> int:
        """The position after a segment's records."""
        following = next((part.start for part in self.segments if part.start > segment.start), None)
        return self.position if following is None else following

    def _records(self, position: int) -> Iterator[Record]:
        """All records from the one at or across `position` on."""
        for segment in self.segments:
            if self._end(segment) > position:
                for record in self._codec.decode(segment.start, segment.records):
                    if record.end > position:
                        yield record

    def _told_of(self, segment: Segment) -> Told:
        told = self._told.get(segment.start)
        if told is None:
            told = self._told[segment.start] = Told(segment)
        return told

    def _finish(self, segment: Segment) -> None:
        """One item in place of those that the store has of a segment that ended."""
        told = self._told_of(segment)
        if len(told.items) > 1 or (told.items and told.size < len(segment.records)):
            self._forget_records(segment)
        if not told.items and segment.records:
            self._put[item(RECORDS, segment.start)] = bytes(segment.records)
            told.items = [segment.start]
            told.size = len(segment.records)
            told.until = self.position

    def _merge_last(self) -> None:
        """Make one segment of the last two."""
        following = self.segments.pop()
        segment = self.segments.pop()
        told, more = self._told_of(segment), self._told_of(following)
        self._drop(item(STATE, following.start))
        del self._told[following.start]
        if told.size == len(segment.records) and more.size:
            told.size += more.size
            told.until = more.until
            told.items += more.items
        self.segments.append(Segment(segment.start, segment.state, segment.records + following.records))

    def _trim(self) -> None:
        while len(self.segments) > 1:
            following = self.segments[1]
            if following.start > self.position - self._retention or not following.records:
                return
            self._forget(self.segments.popleft())

    def _forget(self, segment: Segment) -> None:
        self._forget_records(segment)
        self._drop(item(STATE, segment.start))
        del self._told[segment.start]

    def _forget_records(self, segment: Segment) -> None:
        told = self._told_of(segment)
        for position in told.items:
            self._drop(item(RECORDS, position))
        told.items = []
        told.size = 0
        told.until = segment.start

    def _drop(self, key: bytes) -> None:
        self._put.pop(key, None)
        self._delete.append(key)
