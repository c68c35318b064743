"""The repository is watched, and health tells an orchestrator what serves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keepgate.watch import Look, look
from support.operator import loaded, operate, wait_for
from support.random_models import token_spec
from support.repositories import characters_spec, write_model
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect

Start = Callable[..., ServerProcess]
LOOK = 0.05
LARGEST = 1 << 20


def health(wire: Wire, service: str = "") -> str:
    stub = health_pb2_grpc.HealthStub(wire.channel)
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
    except grpc.RpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "watched"
    write_model(directory, "letters", 1, characters_spec())
    return directory


def test_versions_come_and_go_unasked(start_server: Start, models: Path, tmp_path: Path) -> None:
    server = start_server(models=models, watch_seconds=LOOK)
    with connect(server.address) as wire:
        session = wire.open()
        write_model(tmp_path / "aside", "letters", 2, characters_spec(), seed=2)
        (tmp_path / "aside/letters/2").rename(models / "letters" / "2")
        wait_for(lambda: loaded(wire) == ["letters/1", "letters/2"])
        shutil.rmtree(models / "letters" / "1")
        wait_for(lambda: loaded(wire) == ["letters/1 retired", "letters/2"])
        assert wire.step(session, "abc").position == 3
        wire.close(session)
        wait_for(lambda: loaded(wire) == ["letters/2"])
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_what_is_refused_is_told_once(start_server: Start, models: Path) -> None:
    bad = models / "bad" / "1" / "model.safetensors"
    server = start_server(models=models, watch_seconds=LOOK)
    with connect(server.address) as wire:
        bad.parent.mkdir(parents=True)
        bad.write_bytes(b"no model")
        wait_for(lambda: "model refused" in server.log())
        write_model(models, "ids", 1, token_spec("cifg"))  # a change elsewhere: all is looked at again
        wait_for(lambda: "ids/1" in loaded(wire))
        assert server.log().count('"event": "model refused"') == 1
        assert health(wire) == "SERVING"
        assert health(wire, "keepgate.model.bad") == "NOT_SERVING"
        write_model(models, "bad", 1, token_spec())
        wait_for(lambda: "bad/1" in loaded(wire))
        wait_for(lambda: health(wire, "keepgate.model.bad") == "SERVING")


def test_unloaded_by_hand_stays_out(start_server: Start, models: Path) -> None:
    server = start_server(models=models, watch_seconds=LOOK)
    with connect(server.address) as wire, operate(server) as operator:
        operator.unload("letters/1")
        write_model(models, "ids", 1, token_spec("cifg"))
        wait_for(lambda: loaded(wire) == ["ids/1"])


def test_it_is_off_by_default(start_server: Start, models: Path) -> None:
    server = start_server(models=models)
    assert '"event": "watching"' not in server.log()


def test_only_what_has_changed_is_read(models: Path) -> None:
    path = str(models / "letters" / "1" / "model.safetensors")
    first = look(models, Look(), LARGEST)
    assert list(first.stamps) == list(first.digests) == [path]
    again = look(models, first, LARGEST)
    assert (again.stamps, again.digests) == (first.stamps, {})
    assert look(models, Look(), 10).digests == {}


def test_a_file_that_grows_is_another_at_every_look(models: Path) -> None:
    before = look(models, Look(), LARGEST)
    path = models / "letters" / "2" / "model.safetensors"
    path.parent.mkdir()
    looks = []
    for part in (b"one", b"two", b""):
        with path.open("ab") as file:
            file.write(part)
        looks.append(look(models, before, LARGEST))
    assert looks[0] != looks[1]
    assert looks[1].digests == looks[2].digests


def test_a_repository_that_is_gone_is_seen_as_such(tmp_path: Path) -> None:
    gone = look(tmp_path / "nowhere", Look(), LARGEST)
    assert list(gone.stamps.values()) == [None]
    assert gone == look(tmp_path / "nowhere", gone, LARGEST)


@pytest.mark.parametrize(("setting", "expected"), [(False, "NOT_SERVING"), (True, "SERVING")])
def test_a_server_that_starts_with_a_refused_model(
    start_server: Start, models: Path, setting: bool, expected: str
) -> None:
    bad = models / "bad" / "1" / "model.safetensors"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no model")
    server = start_server(models=models, ready_with_refused_models=setting)
    with connect(server.address) as wire, operate(server) as operator:
        assert health(wire) == expected
        assert health(wire, "keepgate.v1.Sequences") == "SERVING"
        assert health(wire, "keepgate.model.letters") == "SERVING"
        assert health(wire, "keepgate.model.bad") == "NOT_SERVING"
        assert health(wire, "keepgate.model.none") == "NOT_FOUND"
        assert wire.step(wire.open(), "abc").position == 3
        operator.reload()
        assert health(wire) == expected
        shutil.rmtree(bad.parents[1])
        operator.reload()
        assert health(wire) == "SERVING"
        bad.parent.mkdir(parents=True)
        bad.write_bytes(b"no model")
        operator.reload()
        assert health(wire) == "SERVING"  # what serves goes on


def test_a_load_by_hand_makes_ready(start_server: Start, models: Path) -> None:
    bad = models / "bad" / "1" / "model.safetensors"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no model")
    server = start_server(models=models)
    with connect(server.address) as wire, operate(server) as operator:
        assert health(wire) == "NOT_SERVING"
        write_model(models, "bad", 1, token_spec())
        operator.load("bad/1")
        assert health(wire) == "SERVING"
        assert health(wire, "keepgate.model.bad") == "SERVING"
        operator.unload("bad/1")
        assert health(wire, "keepgate.model.bad") == "NOT_SERVING"
