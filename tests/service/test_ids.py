"""An id that was a session's before: the new session has nothing to do with the old one, nor its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keepgate_protos.v1 import sequences_pb2 as pb
from support.inputs import EVERYTHING, TEXT
from support.servers import ServerProcess
from support.wire import Wire, connect, failure, step

SESSIONS = 12
"""More than the server has slots, so that most are in the store at any time."""
DURABILITIES = [pb.DURABILITY_NONE, pb.DURABILITY_EVERYSEC, pb.DURABILITY_ALWAYS]


@pytest.fixture(scope="module")
def cramped(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with a store and two slots a model."""
    folder = tmp_path_factory.mktemp("cramped")
    settings = {"models": repository, "slots": 2, "store": f"sqlite:{folder}/sessions"}
    process = ServerProcess(folder, settings).wait_ready()
    with connect(process.address) as wire:
        yield wire
    assert process.stop() == 0, process.log()
    assert "another server" not in process.log()
    assert '"level": "error"' not in process.log()


def test_sessions_that_are_paged_out_and_end_leave_their_ids_free(cramped: Wire) -> None:
    """Again and again, each time within the second in which the store hears of the last time."""
    names = [f"again-{index}" for index in range(SESSIONS)]
    for round_ in range(6):
        for index, name in enumerate(names):
            cramped.open(session_id=name, durability=DURABILITIES[(index + round_) % 3])
            cramped.step(name, TEXT[: 3 + index], 0)
        for index, name in enumerate(names):
            answer = cramped.step(name, "x", 3 + index, outputs=EVERYTHING)
            fresh = cramped.open()
            cramped.step(fresh, TEXT[: 3 + index], 0)
            assert answer == cramped.step(fresh, "x", 3 + index, outputs=EVERYTHING)
            cramped.close(fresh)
        for name in names:
            cramped.close(name)
            assert failure(lambda name=name: cramped.position(name)).reason == "SESSION_CLOSED"  # type: ignore[misc]


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("how", ["Open", "Fork", "Import"])
def test_an_id_is_free_at_once(cramped: Wire, durability: pb.Durability, how: str) -> None:
    source = cramped.open()
    cramped.step(source, "abc", 0)
    blob = cramped.export(source)
    begin: dict[str, Callable[[], object]] = {
        "Open": lambda: cramped.open(session_id="free", durability=durability),
        "Fork": lambda: cramped.fork(source, fork_id="free", durability=durability),
        "Import": lambda: cramped.import_session(blob, session_id="free", durability=durability),
    }
    for _ in range(5):
        begin[how]()
        start = cramped.position("free")
        assert cramped.step("free", "d", start).position == start + 1
        cramped.close("free")
    cramped.close(source)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_id_whose_session_ended_with_work_in_flight(cramped: Wire, durability: pb.Durability) -> None:
    """The old one's work is done and stored though the client has closed it, and then the id is free."""
    for _ in range(5):
        cramped.open(session_id="busy", durability=durability)
        long = cramped.sequences.Step.future(step("busy", TEXT * 40, 0), timeout=60)
        cramped.close("busy")
        cramped.open(session_id="busy", durability=durability)
        cramped.step("busy", "a")  # the new one lives, whatever becomes of the old one's work
        cramped.close("busy")
        assert long.exception() is None or failure(long.result).reason == "SESSION_CLOSED"
