"""Whose a session is: for everybody else there is none, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from keepgate.sessions.durability import Durability
from keepgate.sessions.keeping import Meta
from keepgate.sessions.session import ModelKey
from keepgate_protos.v1 import models_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.commands import keepgate
from support.servers import ServerProcess
from support.tokens import TokenFile, connect_as
from support.wire import DEADLINE, Wire, failure, step

Start = Callable[..., ServerProcess]


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.toml")


@pytest.fixture
def alice(file: TokenFile) -> str:
    return file.add("alice")


@pytest.fixture
def bob(file: TokenFile) -> str:
    return file.add("bob")


def listed(wire: Wire, **fields: Any) -> tuple[list[str], int]:
    answer = wire.sequences.List(pb.ListRequest(**fields), timeout=DEADLINE)
    return [session.session_id for session in answer.sessions], answer.total


def test_each_has_its_own(start_server: Start, file: TokenFile, alice: str, bob: str) -> None:
    server = start_server(tokens_file=file.path)
    with connect_as(server.address, alice) as hers, connect_as(server.address, bob) as his:
        for number in range(3):
            hers.open(session_id=f"a{number}")
            his.open(session_id=f"b{number}", model="ids" if number else "letters")
        assert listed(hers) == (["a0", "a1", "a2"], 3)
        assert listed(his) == (["b0", "b1", "b2"], 3)
        assert listed(his, model="ids") == (["b1", "b2"], 2)
        assert listed(hers, model="ids") == ([], 0)
        first = hers.sequences.List(pb.ListRequest(page_size=2), timeout=DEADLINE)
        assert listed(hers, page_token=first.next_page_token) == (["a2"], 3)
        assert listed(his, page_token=first.next_page_token, page_size=1)[1] == 3

        # Every way to a session works for its owner, those in tasks of their own included.
        assert hers.step("a0", "abc", 0).position == 3
        assert [answer.step.position for answer in hers.stream([step("a0", "d", 3), step("a1", "e")])] == [
            4,
            1,
        ]
        assert hers.generate("a0", "f", 4, max_tokens=2)[-1].position == 6
        assert hers.score("a0", "ab").position == 8
        assert hers.rewind("a0", 4) == 4
        assert hers.position(hers.fork("a0", fork_id="twin")) == 4
        hers.import_session(hers.export("a0"), session_id="copy")
        assert listed(hers)[0] == ["a0", "a1", "a2", "twin", "copy"]
        for of_hers in ("twin", "copy"):
            assert failure(lambda name=of_hers: his.position(name)).reason == "SESSION_NOT_FOUND"  # type: ignore[misc]


def test_an_ended_session_is_unknown_to_others(
    start_server: Start, file: TokenFile, alice: str, bob: str
) -> None:
    server = start_server(tokens_file=file.path)
    with connect_as(server.address, alice) as hers, connect_as(server.address, bob) as his:
        hers.open(session_id="over")
        hers.close("over")
        assert failure(lambda: hers.position("over")).reason == "SESSION_CLOSED"
        assert failure(lambda: his.position("over")).reason == "SESSION_NOT_FOUND"
        his.open(session_id="over")  # nobody has it any more
        assert failure(lambda: hers.position("over")).reason == "SESSION_NOT_FOUND"


def test_the_store_remembers_whose_it_is(
    start_server: Start, file: TokenFile, alice: str, bob: str, tmp_path: Path, repository: Path
) -> None:
    settings = {"tokens_file": file.path, "store": f"sqlite:{tmp_path / 'store'}", "durability": "always"}
    first = start_server(**settings)
    with connect_as(first.address, alice) as hers:
        hers.step(hers.open(session_id="hers"), "abc")
        hers.step(hers.open("vectors", session_id="stranded"), [0.0, 0.0, 0.0])
    first.kill()
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    (fewer / "letters").symlink_to(repository / "letters")
    second = start_server(**settings, models=fewer)
    with connect_as(second.address, alice) as hers, connect_as(second.address, bob) as his:
        assert failure(lambda: his.position("hers")).reason == "SESSION_NOT_FOUND"
        assert listed(his) == ([], 0)
        assert hers.step("hers", "d", 3).position == 4
        assert failure(lambda: hers.position("stranded")).reason == "SESSION_MODEL"
        assert failure(lambda: his.position("stranded")).reason == "SESSION_NOT_FOUND"
        assert failure(lambda: his.open(session_id="stranded")).reason == "SESSION_EXISTS"
    second.kill()
    del settings["tokens_file"]
    without = start_server(**settings)
    with grpc.insecure_channel(without.address) as channel:  # nobody in particular is not alice
        assert failure(lambda: Wire(channel).position("hers")).reason == "SESSION_NOT_FOUND"


def test_a_description_from_before_there_were_principals() -> None:
    meta = Meta(ModelKey("letters", "1"), "ab", "avx2/fp32", Durability.ALWAYS, 60.0, 1.5e9, "alice")
    assert Meta.unpack(meta.pack()) == meta
    older = meta.pack().replace(b', "principal": "alice"', b"")
    assert b"principal" not in older
    assert Meta.unpack(older).principal == ""
    with pytest.raises(ValueError, match="damaged"):
        Meta.unpack(meta.pack().replace(b'"alice"', b"7"))


def test_sessions_of_one_principal_have_a_limit(
    start_server: Start, file: TokenFile, alice: str, bob: str
) -> None:
    server = start_server(tokens_file=file.path, max_sessions_per_principal=2)
    with connect_as(server.address, alice) as hers, connect_as(server.address, bob) as his:
        first = hers.open()
        hers.open("vectors")
        for attempt in (hers.open, lambda: hers.fork(first), lambda: hers.import_session(hers.export(first))):
            error = failure(attempt)
            assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "PRINCIPAL_SESSIONS_EXHAUSTED")
            assert error.metadata == {"limit": "2"}
            assert error.retry_after > 0
        his.open()
        hers.close(first)
        hers.open()


class Idle:
    """A stream on which one step was answered, and that is still open."""

    def __init__(self, wire: Wire) -> None:
        self._requests: SimpleQueue[pb.StreamRequest | None] = SimpleQueue()
        session = wire.open()
        self._call = wire.sequences.Stream(iter(self._requests.get, None), timeout=DEADLINE)
        self._requests.put(pb.StreamRequest(step=step(session, "a")))
        next(self._call)

    def end(self) -> None:
        self._requests.put(None)
        assert list(self._call) == []


def test_calls_of_one_principal_have_a_limit(
    start_server: Start, file: TokenFile, alice: str, bob: str
) -> None:
    server = start_server(tokens_file=file.path, max_calls_per_principal=2)
    request = models_pb2.ListModelsRequest()
    with connect_as(server.address, alice) as hers, connect_as(server.address, bob) as his:
        streams = [Idle(hers), Idle(hers)]
        error = failure(lambda: hers.models.List(request, timeout=DEADLINE))
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "PRINCIPAL_CALLS_EXHAUSTED")
        assert error.metadata == {"limit": "2"}
        assert error.retry_after > 0
        his.models.List(request, timeout=DEADLINE)
        streams[0].end()
        for _ in range(100):  # an answer gives the call's place back before the client has it
            hers.models.List(request, timeout=DEADLINE)
        streams[1].end()


def test_one_connection_has_a_limit(start_server: Start) -> None:
    server = start_server(max_connection_calls=1)
    with grpc.insecure_channel(server.address) as channel:
        wire = Wire(channel)
        stream = Idle(wire)
        with pytest.raises(grpc.RpcError) as caught:
            wire.models.List(models_pb2.ListModelsRequest(), timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        stream.end()
        assert wire.models.List(models_pb2.ListModelsRequest(), timeout=DEADLINE).models


def test_metadata_has_a_limit(start_server: Start) -> None:
    server = start_server(max_metadata_bytes=2_000)
    with grpc.insecure_channel(server.address) as channel:
        ask = Wire(channel).models.List
        request = models_pb2.ListModelsRequest()
        assert ask(request, metadata=(("x", "y" * 1_000),), timeout=DEADLINE).models
        with pytest.raises(grpc.RpcError) as caught:
            ask(request, metadata=(("x", "y" * 2_000),), timeout=DEADLINE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_health_can_be_closed(start_server: Start, file: TokenFile, alice: str) -> None:
    address = start_server(tokens_file=file.path, open_health=False).address
    assert "got no token" in keepgate("health", "--server", address, code=1).stderr
    assert keepgate("health", "--server", address, KEEPGATE_TOKEN=alice).stdout == "SERVING\n"
