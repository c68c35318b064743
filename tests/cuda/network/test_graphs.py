"""What is recorded, replayed and forgotten."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keepgate_kernels.cuda.graphs import Graphs
from keepgate_kernels.cuda.launch import Queue, pinned
from keepgate_kernels.cuda.target import driver


class Counter:
    """A number on the host, uploaded to a device's array and brought back by a tick; it grows each time that
    the host is asked to put one into the stream."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.graphs = Graphs(self.queue.stream)
        self.given, self.array, self.found = (
            pinned(1, np.int32),
            self.queue.array(1, np.int32),
            pinned(1, np.int32),
        )
        self.puts = 0

    def put(self) -> None:
        self.puts += 1
        self.queue.upload(self.array, self.given, 1)
        self.queue.download(self.found, self.array, 0, 1)

    def tick(self, given: int, put: Callable[[], None] | None = None) -> int:
        self.given[0] = given
        self.graphs.run("tick", put or self.put)
        self.queue.wait()
        return int(self.found[0])


def test_the_second_time_is_recorded_and_replayed_from_then_on() -> None:
    counter = Counter()
    assert [counter.tick(number) for number in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert counter.puts == 2
    counter.graphs.forget()
    assert [counter.tick(number) for number in (5, 6, 7)] == [5, 6, 7]
    assert counter.puts == 4


def test_a_failure_while_recording_ends_the_recording() -> None:
    counter = Counter()
    counter.tick(1)

    def fails() -> None:
        counter.put()
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        counter.tick(2, fails)
    assert counter.tick(3) == 3
    assert counter.tick(4) == 4


def test_recordings_go_with_their_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[int] = []
    destroy = driver.cuGraphExecDestroy

    def free(graph: Any) -> None:
        freed.append(1)
        destroy(graph)

    monkeypatch.setattr(driver, "cuGraphExecDestroy", free)
    counter = Counter()
    for number in range(3):
        counter.tick(number)
    gone = weakref.ref(counter.graphs)
    del counter
    gc.collect()
    assert gone() is None
    assert freed == [1]
