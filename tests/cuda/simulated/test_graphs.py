"""What is recorded, replayed and forgotten, with a recorder that keeps a list instead of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from keepgate_kernels.cuda.graphs import Graphs


class Tape:
    """A stream as a list; recorded is what `enqueue` puts between begin and end."""

    def __init__(self) -> None:
        self.stream: list[str] = []
        self.open: list[str] | None = None
        self.freed: list[Any] = []

    def put(self, name: str) -> Callable[[], None]:
        return lambda: (self.stream if self.open is None else self.open).append(name)

    def begin(self) -> None:
        self.open = []

    def end(self) -> Any:
        recorded, self.open = tuple(self.open or ()), None
        return recorded

    def start(self, graph: Any) -> None:
        self.stream += [f"{name} replayed" for name in graph]

    def free(self, graph: Any) -> None:
        self.freed.append(graph)


def test_the_second_time_is_recorded_and_replayed_from_then_on() -> None:
    tape = Tape()
    graphs = Graphs(tape)
    for _ in range(3):
        graphs.run("a", tape.put("tick"))
    graphs.run("b", tape.put("other"))
    assert tape.stream == ["tick", "tick replayed", "tick replayed", "other"]
    graphs.forget()
    assert tape.freed == [("tick",)]
    graphs.run("a", tape.put("moved"))
    assert tape.stream[-1] == "moved"


def test_a_failure_while_recording_ends_the_recording() -> None:
    tape = Tape()
    graphs = Graphs(tape)
    graphs.run("a", tape.put("tick"))

    def fails() -> None:
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        graphs.run("a", fails)
    assert tape.open is None
    graphs.run("a", tape.put("tick"))
    assert tape.stream == ["tick", "tick replayed"]


def test_without_a_recorder_everything_is_done_as_it_is() -> None:
    tape = Tape()
    graphs = Graphs(None)
    for _ in range(3):
        graphs.run("a", tape.put("tick"))
    graphs.forget()
    assert tape.stream == ["tick"] * 3
