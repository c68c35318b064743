"""What an error tells a client: nothing of the machine, of the server's insides, or of other principals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc_status import rpc_status
from keepgate_protos.v1 import admin_pb2, admin_pb2_grpc, models_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess
from support.tokens import TokenFile, connect_as, showing
from support.wire import DEADLINE, Wire, inputs

Start = Callable[..., ServerProcess]
PATH = re.compile(r"(?<![\w.:/])/[\w.-]+/|[A-Za-z]:\\|\.py\b|\.safetensors|\.toml|\.pem")
INSIDES = re.compile(
    r"Traceback|File \"|line \d+|Error\b|Exception|0x[0-9a-f]{6,}|keepgate\.\w+\.|<[\w.]+ object"
)


@pytest.fixture
def pair(start_server: Start, tmp_path: Path) -> Iterator[tuple[Wire, ServerProcess]]:
    """bob's connection to a server on which alice has a session."""
    file = TokenFile(tmp_path / "tokens.toml")
    alice, bob = file.add("alice"), file.add("bob")
    server = start_server(
        tokens_file=file.path,
        store=f"sqlite:{tmp_path / 'sessions.db'}",
        max_sessions_per_principal=3,
        max_pending_steps=8,
        max_inputs_per_request=8,
    )
    with connect_as(server.address, alice) as hers, connect_as(server.address, bob) as his:
        hers.step(hers.open(session_id="secret-of-hers"), "abc")
        yield his, server


def bad_requests(wire: Wire, own: str) -> list[Callable[[], Any]]:
    """One for each way to be wrong that a client has."""
    blob = wire.export(own)
    call = wire.sequences
    garbage: Any = wire.channel.unary_unary("/keepgate.v1.Sequences/Step")
    return [
        lambda: garbage(b"\xff\xff\xff", timeout=DEADLINE),
        lambda: wire.open("nothing"),
        lambda: wire.open("../../etc/passwd"),
        lambda: wire.open("letters", version="9"),
        lambda: wire.open(session_id="../x"),
        lambda: wire.open(session_id="secret-of-hers"),
        lambda: wire.open(session_id=own),
        lambda: wire.open(durability=99),
        lambda: wire.open(initial_state=[pb.LayerState(h=[1.0])]),
        lambda: wire.step("secret-of-hers", "a"),
        lambda: wire.step("never-there", "a"),
        lambda: wire.step(own, "A"),
        lambda: wire.step(own, "a" * 9),
        lambda: wire.step(own, [10_000]),
        lambda: wire.step(own, "a", 77),
        lambda: wire.step(own, "zz", 0),
        lambda: wire.step(own, [1.0]),
        lambda: wire.generate(own, "a", max_tokens=0),
        lambda: wire.generate("secret-of-hers", "a", max_tokens=1),
        lambda: wire.score("secret-of-hers", "ab"),
        lambda: call.Score(pb.ScoreRequest(inputs=inputs("ab")), timeout=DEADLINE),
        lambda: wire.fork("secret-of-hers"),
        lambda: wire.fork(own, fork_id="secret-of-hers"),
        lambda: wire.rewind(own, 999),
        lambda: wire.rewind("secret-of-hers", 0),
        lambda: wire.export("secret-of-hers"),
        lambda: wire.import_session(blob[:-1]),
        lambda: wire.import_session(blob, model="vectors"),
        lambda: wire.close("secret-of-hers"),
        lambda: call.List(pb.ListRequest(page_token="x"), timeout=DEADLINE),  # noqa: S106
        lambda: wire.models.Describe(models_pb2.DescribeModelRequest(name="/etc"), timeout=DEADLINE),
        lambda: [wire.open() for _ in range(4)],
    ]


def test_errors_tell_no_more_than_they_should(pair: tuple[Wire, ServerProcess], repository: Path) -> None:
    wire, server = pair
    own = wire.open()
    wire.step(own, "abc")
    reasons = set()
    for attempt in bad_requests(wire, own):
        with pytest.raises(grpc.RpcError) as caught:
            attempt()
        reasons.add(check(caught.value, repository))
    for answer in wire.stream([pb.StepRequest(session_id="secret-of-hers", inputs=inputs("a"))]):
        check_text(str(answer.error), repository)
    assert {"INVALID_ARGUMENT", "SESSION_NOT_FOUND", "SESSION_EXISTS", "POSITION_MISMATCH"} <= reasons
    assert '"level": "error"' not in server.log()


def test_refusals_of_strangers(pair: tuple[Wire, ServerProcess], repository: Path) -> None:
    _, server = pair
    for address in (server.address, server.admin_address):
        with grpc.insecure_channel(address) as channel:
            for token in ("", "wrong"):
                stub: Any = admin_pb2_grpc.AdminStub(showing(channel, token))  # type: ignore[no-untyped-call]
                with pytest.raises(grpc.RpcError) as caught:
                    stub.Reload(admin_pb2.ReloadRequest(), timeout=DEADLINE)
                check(caught.value, repository)
                assert "wrong" not in str(caught.value.details())


def check(error: Any, repository: Path) -> str:
    """The reason; fails the test if text or details tell what they should not."""
    status = rpc_status.from_call(error)
    assert status is not None, error.details()
    check_text(status.message, repository)
    told = json_format.MessageToDict(status)
    for detail in told["details"]:
        check_text(str({name: value for name, value in detail.items() if name != "@type"}), repository)
    return str(next(detail["reason"] for detail in told["details"] if "reason" in detail))


def check_text(text: str, repository: Path) -> None:
    """What the client itself sent may come back, as "/etc" does."""
    shown = text.replace("'../../etc/passwd'", "").replace("'/etc'", "").replace("'../x'", "")
    shown = shown.replace("/keepgate.v1.Sequences/Step", "").replace("type.googleapis.com/", "")
    assert not PATH.search(shown), text
    assert not INSIDES.search(shown), text
    assert str(repository) not in text
    assert "alice" not in text
    assert "sqlite" not in text
