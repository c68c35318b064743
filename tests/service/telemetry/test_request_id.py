"""A request's id: in its answer, in its errors, and in all lines of the log that it caused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from keepgate_client import Client, SessionNotFoundError
from keepgate_protos.v1 import sequences_pb2 as pb
from support.operator import Operator, operate, wait_for
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect, failure, step, take_apart

Start = Callable[..., ServerProcess]
KEY = "x-request-id"


@pytest.fixture
def talkative(start_server: Start) -> ServerProcess:
    return start_server(log_level="debug")


@pytest.fixture
def talkative_wire(talkative: ServerProcess) -> Iterator[Wire]:
    with connect(talkative.address) as connection:
        yield connection


def lines(server: ServerProcess, event: str = "call") -> list[dict[str, Any]]:
    """Those of the log that tell of an event."""
    whole = (json.loads(line) for line in server.log().splitlines() if line.endswith("}"))
    return [line for line in whole if line["event"] == event]


def of(trailing: Any) -> list[str]:
    return [value for key, value in trailing or () if key == KEY]


def echoed(wire: Wire, *given: str) -> list[str]:
    """What comes back as the id of a List with these."""
    metadata = tuple((KEY, value) for value in given)
    _, call = wire.sequences.List.with_call(pb.ListRequest(), metadata=metadata, timeout=DEADLINE)
    return of(call.trailing_metadata())


@pytest.mark.parametrize("given", ["a", "7f3c-9", "with a blank inside", "~" * 128, '{"quoted"}'])
def test_the_client_names_it(wire: Wire, given: str) -> None:
    assert echoed(wire, given) == [given]


@pytest.mark.parametrize("given", ["", "~" * 129])
def test_what_cannot_be_an_id_is_replaced(wire: Wire, given: str) -> None:
    (made,) = echoed(wire, given)
    assert made
    assert made != given


def test_every_call_has_its_own(wire: Wire) -> None:
    made = {echoed(wire)[0] for _ in range(20)}
    assert len(made) == 20


def test_an_error_has_it(wire: Wire) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        wire.sequences.Step(step("nobody", "a"), metadata=((KEY, "mine"),), timeout=DEADLINE)
    assert of(caught.value.trailing_metadata()) == ["mine"]
    assert failure(lambda: wire.step("nobody", "a")).request_id


def test_a_stream_has_one(wire: Wire) -> None:
    session = wire.open()
    requests = [
        pb.StreamRequest(step=step(name, "a", position))
        for name, position in ((session, 0), ("x", 0), (session, 5))
    ]
    call = wire.sequences.Stream(iter(requests), metadata=((KEY, "stream"),), timeout=DEADLINE)
    errors = [take_apart(answer.error) for answer in call if answer.HasField("error")]
    assert sorted((error.reason, error.request_id) for error in errors) == [
        ("POSITION_MISMATCH", "stream"),
        ("SESSION_NOT_FOUND", "stream"),
    ]
    assert of(call.trailing_metadata()) == ["stream"]


def test_a_line_for_each_call(talkative: ServerProcess, talkative_wire: Wire) -> None:
    session = talkative_wire.open()
    talkative_wire.sequences.Step(step(session, "a"), metadata=((KEY, "fine"),), timeout=DEADLINE)
    with pytest.raises(grpc.RpcError):
        talkative_wire.sequences.Step(step("nobody", "a"), metadata=((KEY, "wrong"),), timeout=DEADLINE)
    wait_for(lambda: len(lines(talkative)) == 3)
    opened, fine, wrong = lines(talkative)
    assert opened["method"] == "/keepgate.v1.Sequences/Open"
    assert opened["request_id"]
    assert (fine["request_id"], fine["level"], fine["code"]) == ("fine", "debug", "OK")
    assert fine["peer"].startswith("ipv4:127.0.0.1:")
    assert fine["milliseconds"] > 0
    assert (wrong["request_id"], wrong["level"], wrong["code"]) == ("wrong", "info", "NOT_FOUND")
    assert wrong["reason"] == "SESSION_NOT_FOUND"


def test_at_info_only_failed_calls_have_a_line(start_server: Start) -> None:
    server = start_server(max_sessions=1)
    with connect(server.address) as wire:
        session = wire.open()
        wire.step(session, "a")
        failure(wire.open)
        wait_for(lambda: len(lines(server)) == 1)
        (line,) = lines(server)
        assert (line["level"], line["code"]) == ("warning", "RESOURCE_EXHAUSTED")


def test_lines_of_what_a_call_causes_have_its_id(talkative: ServerProcess) -> None:
    with operate(talkative) as operator:
        assert isinstance(operator, Operator)
        from keepgate_protos.v1 import admin_pb2

        request = admin_pb2.UnloadRequest(name="ids", version="1")
        operator.stub.Unload(request, metadata=((KEY, "out"),), timeout=DEADLINE)
    assert [line["request_id"] for line in lines(talkative, "model retired")] == ["out"]
    assert [line["request_id"] for line in lines(talkative, "model unloaded")] == ["out"]
    assert all("request_id" not in line for line in lines(talkative, "model loaded"))
    assert all("request_id" not in line for line in lines(talkative, "ready"))


def test_the_client_library_takes_errors_with_an_id(server: ServerProcess) -> None:
    with Client(server.address) as client, pytest.raises(SessionNotFoundError):
        client.attach("nobody")
