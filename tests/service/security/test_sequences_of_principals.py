"""Sequences of the Open Inference Protocol: the same id is another sequence for another principal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status
from keepgate.rpc.oip.names import session_id_of
from keepgate_protos.oip import grpc_service_pb2 as pb
from keepgate_protos.oip import grpc_service_pb2_grpc
from support.servers import ServerProcess
from support.tokens import TokenFile, bearer, connect_as
from support.wire import DEADLINE, Wire, failure, take_apart


def infer(server: ServerProcess, token: str, values: list[int], **parameters: Any) -> list[float]:
    """The logits after the last of the values."""
    request = pb.ModelInferRequest(model_name="ids")
    tensor = request.inputs.add(name="tokens", datatype="INT32", shape=[1, len(values)])
    tensor.contents.int_contents.extend(values)
    request.outputs.add(name="logits")
    request.parameters["sequence_id"].string_param = "the same"
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        answer = stub.ModelInfer(request, timeout=DEADLINE, metadata=bearer(token))
    logits = np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()
    return [float(value) for value in logits]


def test_each_has_its_own(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    alice, bob, carol = (file.add(name) for name in ("alice", "bob", "carol"))
    server = start_server(tokens_file=file.path)
    infer(server, alice, [1, 2], sequence_start=True)
    with pytest.raises(grpc.RpcError) as caught:
        infer(server, bob, [3])
    assert take_apart(rpc_status.from_call(caught.value)).reason == "SEQUENCE_NOT_STARTED"
    infer(server, bob, [7], sequence_start=True)
    expected = infer(server, carol, [1, 2, 3], sequence_start=True)
    assert infer(server, alice, [3], sequence_end=True) == expected
    assert infer(server, bob, [3]) == infer(server, carol, [7, 3], sequence_start=True)
    assert server.stop() == 0, server.log()
    assert '"level": "error"' not in server.log()


def test_nobody_takes_the_id_of_another_ones(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    alice, bob = file.add("alice"), file.add("bob")
    server = start_server(tokens_file=file.path)
    his = session_id_of("ids", "the same", "bob")
    with connect_as(server.address, alice) as hers:
        session = hers.open("ids")
        blob = hers.export(session)
        for field, attempt in (
            ("session_id", lambda: hers.open("ids", session_id=his)),
            ("fork_id", lambda: hers.fork(session, fork_id=his)),
            ("session_id", lambda: hers.import_session(blob, session_id=his)),
        ):
            error = failure(attempt)
            assert (error.code, error.field) == ("INVALID_ARGUMENT", field)
    infer(server, bob, [1], sequence_start=True)


def test_without_principals_the_ids_are_everybodys(wire: Wire) -> None:
    name = session_id_of("ids", "natively begun")
    assert wire.open("ids", session_id=name) == name
    assert wire.close(name) == 0
