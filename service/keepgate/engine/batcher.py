"""From pending work to the next batch. Pure: it neither computes nor waits.

Fairness: sessions take turns, first come first served, and a turn is at most a quantum of inputs,
so that a long prompt delays nobody by more than its quantum. Work of one session is done in order,
at most one piece of it in a batch.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, Protocol, TypeVar


class Work(Protocol):
    """slot: the session's; offset: inputs applied so far; remaining: inputs to go."""

    slot: int
    offset: int

    @property
    def remaining(self) -> int: ...


W = TypeVar("W", bound=Work)


class Item(NamedTuple, Generic[W]):
    """A turn: the next `steps` inputs of `work`, from its offset; `last` if none remain after."""

    work: W
    steps: int
    last: bool


class Batcher(Generic[W]):
    """max_lanes: items of a batch; max_inputs: inputs of a batch; quantum: inputs of an item."""

    def __init__(self, *, max_lanes: int, max_inputs: int, quantum: int) -> None:
        self._max_lanes = max_lanes
        self._max_inputs = max_inputs
        self._quantum = quantum
        self._queues: dict[int, deque[W]] = {}
        self._ready: deque[int] = deque()  # slots that have work and are in no batch

    @property
    def waiting(self) -> bool:
        """Whether a batch could be made now."""
        return bool(self._ready)

    @property
    def is_idle(self) -> bool:
        """Whether there is no work, in a batch or waiting for one."""
        return not self._queues

    def add(self, work: W) -> None:
        queue = self._queues.get(work.slot)
        if queue is None:
            self._queues[work.slot] = deque((work,))
            self._ready.append(work.slot)
        else:
            queue.append(work)

    def next(self) -> list[Item[W]]:
        """Take the next batch; it must come back by `finish` or, slot by slot, by `drop`."""
        items: list[Item[W]] = []
        room = self._max_inputs
        while self._ready and room and len(items) < self._max_lanes:
            work = self._queues[self._ready.popleft()][0]
            steps = remaining = work.remaining
            if remaining > self._quantum or remaining > room:
                steps = min(self._quantum, room)
            items.append(Item(work, steps, steps == remaining))
            room -= steps
        return items

    def finish(self, items: list[Item[W]]) -> list[W]:
        """A batch was computed. Returns the work that is done with it."""
        done: list[W] = []
        for work, steps, last in items:
            work.offset += steps
            queue = self._queues[work.slot]
            if last:
                done.append(queue.popleft())
            if queue:
                self._ready.append(work.slot)
            else:
                del self._queues[work.slot]
        return done

    def drop(self, slot: int) -> list[W]:
        """Forget all work of a slot whose item is in a batch, or that has no work."""
        return list(self._queues.pop(slot, ()))
