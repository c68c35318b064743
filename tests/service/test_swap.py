"""Models come and go under a server: what serves, what is refused, and what is given back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from keepgate_protos.v1 import admin_pb2, models_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.operator import Operator, loaded, names, operate, wait_for
from support.random_models import token_spec
from support.repositories import characters_spec, write_model, write_repository
from support.servers import ServerProcess
from support.wire import Wire, connect, failure, inputs

Start = Callable[..., ServerProcess]
LETTERS = {1: characters_spec("lstm"), 2: characters_spec("gru", (16, 12)), 3: characters_spec("cifg", (20,))}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of one's own: letters/1, letters/2, ids/1, vectors/1."""
    return write_repository(tmp_path / "models")


@pytest.fixture
def server(start_server: Start, models: Path) -> ServerProcess:
    return start_server(models=models)


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    with connect(server.address) as connection:
        yield connection


@pytest.fixture
def operator(server: ServerProcess) -> Iterator[Operator]:
    with operate(server) as connection:
        yield connection


def version_of(wire: Wire, session: str) -> str:
    reply = wire.sequences.Describe(pb.DescribeRequest(session_id=session))
    return str(reply.session.version)


def add(models: Path, version: int) -> Path:
    return write_model(models, "letters", version, LETTERS.get(version, LETTERS[3]), seed=version)


def file_of(models: Path, version: int) -> Path:
    return models / "letters" / str(version) / "model.safetensors"


def changed(answer: admin_pb2.ReloadResponse) -> list[str]:
    """All that a reload tells, in words."""
    told = [
        f"{what} {name}"
        for what in ("loaded", "retired", "unloaded")
        for name in names(getattr(answer, what))
    ]
    return told + [f"refused {file.path}" for file in answer.refused]


def is_loaded(wire: Wire, key: str) -> bool:
    return any(each.split()[0] == key for each in loaded(wire))


def test_a_new_version_gets_the_new_sessions(wire: Wire, operator: Operator, models: Path) -> None:
    old = wire.open()
    wire.step(old, "abc")
    add(models, 3)
    answer = operator.reload()
    assert changed(answer) == ["loaded letters/3"]
    assert version_of(wire, wire.open()) == "3"
    assert version_of(wire, old) == "2"
    assert wire.step(old, "d", 3).position == 4
    assert changed(operator.reload()) == []


def test_a_version_that_is_gone_serves_its_sessions_to_their_end(
    wire: Wire, operator: Operator, models: Path
) -> None:
    session = wire.open()
    wire.step(session, "abc", 0)
    shutil.rmtree(file_of(models, 2).parent)
    answer = operator.reload()
    assert names(answer.retired) == ["letters/2"]
    assert answer.retired[0].sessions == 1
    assert not answer.unloaded
    assert "letters/2 retired" in loaded(wire)
    assert version_of(wire, wire.open()) == "1"
    error = failure(lambda: wire.open(version="2"))
    assert (error.code, error.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "is retired and takes no new sessions; loaded: ids/1, letters/1, vectors/1" in error.message

    described = wire.models.Describe(models_pb2.DescribeModelRequest(name="letters", version="2")).model
    assert (described.condition, described.sessions) == (models_pb2.CONDITION_RETIRED, 1)
    assert wire.step(session, "abc", 0).replayed
    assert wire.step(session, "d", 3).position == 4
    fork = wire.sequences.Fork(pb.ForkRequest(session_id=session)).session
    assert fork.version == "2"
    assert wire.close(session) == 4
    assert wire.step(fork.session_id, "e", 4).position == 5
    assert "letters/2 retired" in loaded(wire)
    wire.close(fork.session_id)
    wait_for(lambda: not is_loaded(wire, "letters/2"))
    assert "is not loaded" in failure(lambda: wire.open(version="2")).message


@pytest.mark.parametrize("paged", [False, True])
def test_the_last_session_may_also_expire_or_lie_in_the_store(
    start_server: Start, models: Path, paged: bool
) -> None:
    server = start_server(models=models, slots=1 if paged else 8)
    with connect(server.address) as wire, operate(server) as operator:
        sessions = [wire.open(idle_ttl=Duration(seconds=2)) for _ in range(3)]
        for session in sessions:
            wire.step(session, "abc")
        shutil.rmtree(file_of(models, 2).parent)
        assert operator.reload().retired[0].sessions == 3
        wait_for(lambda: not is_loaded(wire, "letters/2"))
        assert failure(lambda: wire.step(sessions[0], "d")).reason == "SESSION_EXPIRED"


def test_a_version_that_nobody_uses_is_unloaded_at_once(wire: Wire, operator: Operator, models: Path) -> None:
    shutil.rmtree(models / "ids")
    add(models, 3)
    answer = operator.reload()
    assert (names(answer.loaded), names(answer.retired)) == (["letters/3"], ["ids/1"])
    assert names(answer.unloaded) == ["ids/1"]
    assert loaded(wire) == ["letters/1", "letters/2", "letters/3", "vectors/1"]


def test_a_folder_that_comes_back_is_served_again(wire: Wire, operator: Operator, models: Path) -> None:
    session = wire.open()
    folder = file_of(models, 2).parent
    folder.rename(models / ".aside")
    assert names(operator.reload().retired) == ["letters/2"]
    (models / ".aside").rename(folder)
    assert names(operator.reload().loaded) == ["letters/2"]
    assert version_of(wire, wire.open()) == "2"
    assert wire.step(session, "a", 0).position == 1


def test_a_damaged_file_leaves_the_old_ones_serving(wire: Wire, operator: Operator, models: Path) -> None:
    new = add(models, 3)
    new.write_bytes(new.read_bytes()[:-100])
    (models / "letters" / "latest").mkdir()
    answer = operator.reload()
    assert [(file.path, file.fault.split(":")[0]) for file in answer.refused] == [
        (
            str(models / "letters" / "latest" / "model.safetensors"),
            "version 'latest', expected a positive integer",
        ),
        (str(new), "truncated"),
    ]
    assert len(changed(answer)) == len(answer.refused)
    assert version_of(wire, wire.open()) == "2"
    error = failure(lambda: operator.load("letters/3"))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "MODEL_REFUSED")
    assert f"{new}: " in error.message
    assert error.metadata == {"model": "letters", "version": "3"}
    add(models, 3)
    assert names(operator.reload().loaded) == ["letters/3"]


def test_a_loaded_version_does_not_change(wire: Wire, operator: Operator, models: Path) -> None:
    session = wire.open()
    first = wire.step(session, "abc", 0, outputs=pb.Outputs(logits=True))
    path = file_of(models, 2)
    same = path.read_bytes()
    write_model(models, "letters", 2, LETTERS[2], seed=99)
    for _ in range(2):
        (refused,) = operator.reload().refused
        assert refused.path == str(path)
        assert "has changed since it was loaded" in refused.fault
    assert failure(lambda: operator.load("letters/2")).reason == "MODEL_REFUSED"
    other = wire.open()
    assert wire.step(other, "abc", 0, outputs=pb.Outputs(logits=True)) == first
    path.write_bytes(same)
    assert changed(operator.reload()) == []
    path.unlink()
    answer = operator.reload()
    assert changed(answer) == [f"refused {path}"]
    assert "cannot be read" in answer.refused[0].fault
    assert "letters/2" in loaded(wire)


@pytest.mark.parametrize("left", ["nothing", "no folder"])
def test_a_repository_that_is_not_there_changes_nothing(
    wire: Wire, operator: Operator, models: Path, left: str
) -> None:
    before = loaded(wire)
    models.rename(models.with_name("aside"))
    if left == "nothing":
        models.mkdir()
    error = failure(operator.reload)
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "MODEL_REFUSED")
    assert str(models) in error.message
    assert loaded(wire) == before


def test_what_was_unloaded_stays_out_till_it_is_loaded(wire: Wire, operator: Operator) -> None:
    session = wire.open()
    answer = operator.unload("letters/2")
    assert (answer.sessions, answer.unloaded) == (1, False)
    assert operator.unload("ids/1").unloaded
    assert changed(operator.reload()) == []
    assert version_of(wire, wire.open()) == "1"
    wire.close(session)
    wait_for(lambda: not is_loaded(wire, "letters/2"))
    assert not operator.reload().loaded
    model = operator.load("letters/2")
    assert (model.name, model.version, model.condition) == ("letters", "2", models_pb2.CONDITION_SERVING)
    assert version_of(wire, wire.open()) == "2"
    assert (
        operator.load("letters/2")
        == wire.models.Describe(models_pb2.DescribeModelRequest(name="letters")).model
    )
    assert operator.load("ids/1").fingerprint


def test_versions_that_are_not_there(operator: Operator) -> None:
    error = failure(lambda: operator.load("letters/7"))
    assert (error.code, error.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "is not in the repository; there: ids/1, letters/1, letters/2, vectors/1" in error.message
    error = failure(lambda: operator.unload("letters/7"))
    assert (error.code, error.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    for call in (operator.load, operator.unload):
        for key, field in (("letters/", "version"), ("/1", "name")):
            error = failure(lambda call=call, key=key: call(key))  # type: ignore[misc]
            assert (error.code, error.field) == ("INVALID_ARGUMENT", field)


def test_hangup_reloads(server: ServerProcess, wire: Wire, models: Path) -> None:
    add(models, 3)
    os.kill(server.pid, signal.SIGHUP)
    wait_for(lambda: is_loaded(wire, "letters/3"))
    shutil.rmtree(models)
    os.kill(server.pid, signal.SIGHUP)
    wait_for(lambda: '"event": "not reloaded"' in server.log())
    assert wire.step(wire.open(), "abc").position == 3


def test_stored_sessions_go_on_once_their_version_is_loaded(
    start_server: Start, models: Path, tmp_path: Path
) -> None:
    settings = {"models": models, "store": f"sqlite:{tmp_path / 'sessions'}", "durability": "always"}
    logits = pb.Outputs(logits=True)
    server = start_server(**settings)
    with connect(server.address) as wire:
        session, closed = wire.open(session_id="long-lived"), wire.open(session_id="closed")
        wire.step(session, "abc", 0)
        expected = wire.step(session, "d", 3, outputs=logits)
        wire.close(closed)
    assert server.stop() == 0
    folder = file_of(models, 2).parent
    folder.rename(models / ".aside")
    server = start_server(**settings)
    with connect(server.address) as wire, operate(server) as operator:
        assert failure(lambda: wire.step(session, "e", 4)).reason == "SESSION_MODEL"
        assert failure(lambda: wire.open(session_id=session, durability=pb.DURABILITY_NONE)).reason == (
            "SESSION_EXISTS"
        )
        write_model(models, "letters", 2, LETTERS[2], seed=99)  # the version's number, but other weights
        assert names(operator.reload().loaded) == ["letters/2"]
        assert "has other weights here" in failure(lambda: wire.step(session, "e", 4)).message
        shutil.rmtree(folder)
        assert names(operator.reload().unloaded) == ["letters/2"]
        (models / ".aside").rename(folder)
        assert names(operator.reload().loaded) == ["letters/2"]
        replayed = wire.step(session, "d", 3, outputs=logits)
        assert replayed.replayed
        assert replayed.prediction == expected.prediction
        assert wire.step(session, "e", 4).position == 5
        assert failure(lambda: wire.step(closed, "a")).reason == "SESSION_CLOSED"


def test_memory_is_given_back(start_server: Start, models: Path) -> None:
    """A version of 48 MiB and a state of 16 KiB a session, in and out, again and again."""
    server = start_server(models=models)
    hidden, sessions = (1_024, 1_024), 500
    big = models / "big" / "1"
    write_model(models, "big", 1, token_spec("lstm", hidden=hidden))
    aside = models / ".aside"
    weights = 4 * (4 * 3 * hidden[0] * hidden[1])
    with connect(server.address) as wire, operate(server) as operator:
        after: list[int] = []
        for _ in range(4):
            before = server.resident_bytes
            assert names(operator.reload().loaded) == ["big/1"]
            opened = [wire.open("big") for _ in range(sessions)]
            answers = wire.stream(pb.StepRequest(session_id=each, inputs=inputs([1])) for each in opened)
            assert all(answer.HasField("step") for answer in answers)
            assert server.resident_bytes > before + weights
            big.rename(aside)
            assert operator.reload().retired[0].sessions == sessions
            for each in opened:
                wire.close(each)
            wait_for(lambda: not is_loaded(wire, "big/1"))
            wait_for(lambda limit=before + weights // 2: server.resident_bytes < limit)  # type: ignore[misc]
            aside.rename(big)
            after.append(server.resident_bytes)
        assert after[-1] < after[0] + weights // 2, after


def test_who_asked_for_a_change_that_is_refused_has_gone(server: ServerProcess, operator: Operator) -> None:
    asked = admin_pb2.LoadRequest(name="letters", version="77")
    for patience in range(100):  # some of them leave while the repository is read
        with contextlib.suppress(grpc.RpcError):
            operator.stub.Load(asked, timeout=(1 + patience % 20) / 4_000)
    # One that stays until it is answered: then those before it have been, too.
    assert failure(lambda: operator.load("letters/78")).reason == "MODEL_NOT_FOUND"
    assert server.stop() == 0
    assert '"level": "error"' not in server.log()
    assert "never retrieved" not in server.log()
