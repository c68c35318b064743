"""The batcher by transcripts, and what must hold for any work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keepgate.engine.batcher import Batcher, Item
from support.transcripts import read_transcripts, replay

CASES = read_transcripts("batches.txt")


@dataclass
class Load:
    """Work with a name."""

    name: str
    slot: int
    length: int
    offset: int = 0

    @property
    def remaining(self) -> int:
        return self.length - self.offset


class Player:
    """Answers the events of tests/transcripts/batches.txt with a batcher."""

    def __init__(self) -> None:
        self.batcher: Batcher[Load] = Batcher(max_lanes=3, max_inputs=10, quantum=4)
        self.out: deque[list[Item[Load]]] = deque()

    def answer(self, event: str) -> str:
        verb, *arguments = event.split()
        return str(getattr(self, verb)(*arguments))

    def add(self, name: str, slot: str, length: str) -> str:
        self.batcher.add(Load(name, int(slot), int(length)))
        return "ok"

    def next(self) -> str:
        items = self.batcher.next()
        if not items:
            return "nothing"
        self.out.append(items)
        return " ".join(
            f"{load.name}/{load.slot} {load.offset}+{steps}{'!' if last else ''}"
            for load, steps, last in items
        )

    def finish(self) -> str:
        return " ".join(["done", *(load.name for load in self.batcher.finish(self.out.popleft()))])

    def drop(self, slot: str) -> str:
        return " ".join(["dropped", *(load.name for load in self.batcher.drop(int(slot)))])


@pytest.mark.parametrize("title", CASES)
def test_transcript(title: str) -> None:
    assert replay(CASES[title], Player().answer) == CASES[title]


@given(
    loads=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), max_size=30),
    lanes=st.integers(1, 5),
    quantum=st.integers(1, 8),
    room=st.integers(1, 20),
)
def test_all_work_is_done_once_and_in_order(
    loads: list[tuple[int, int]], lanes: int, quantum: int, room: int
) -> None:
    batcher: Batcher[Load] = Batcher(max_lanes=lanes, max_inputs=room, quantum=quantum)
    for index, (slot, length) in enumerate(loads):
        batcher.add(Load(str(index), slot, length))
    done: list[Load] = []
    while items := batcher.next():
        assert len(items) <= lanes
        assert sum(item.steps for item in items) <= room
        assert all(1 <= item.steps <= quantum for item in items)
        slots = [item.work.slot for item in items]
        assert len(set(slots)) == len(slots)
        done += batcher.finish(items)
    assert sorted(int(load.name) for load in done) == list(range(len(loads)))
    assert all(load.remaining == 0 for load in done)
    for slot in range(5):
        names = [int(load.name) for load in done if load.slot == slot]
        assert names == sorted(names)
    assert not batcher.waiting


@given(others=st.integers(1, 6), length=st.integers(1, 200))
def test_a_turn_comes_round_however_long_the_others_are(others: int, length: int) -> None:
    batcher: Batcher[Load] = Batcher(max_lanes=2, max_inputs=1_000, quantum=4)
    for slot in range(others):
        batcher.add(Load("long", slot, length))
    batcher.add(Load("short", others, 1))
    batches = 0
    while True:
        batches += 1
        if any(load.name == "short" for load in batcher.finish(batcher.next())):
            break
    assert batches <= (others + 2) // 2
