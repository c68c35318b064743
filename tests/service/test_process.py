"""The server as a process: start, health, limits in time, and every way to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from keepgate.config import BUNDLED_MODELS
from keepgate_protos.v1 import models_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.random_models import feature_spec
from support.repositories import write_model, write_repository
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect, failure, inputs

Start = Callable[..., ServerProcess]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(wire: Wire, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(wire.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE).status)


@pytest.mark.parametrize("service", ["", "keepgate.v1.Sequences", "keepgate.v1.Models"])
def test_health(wire: Wire, service: str) -> None:
    assert health(wire, service) == SERVING


def test_health_of_an_unknown_service(wire: Wire) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health(wire, "keepgate.v2.Sequences")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection(wire: Wire) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(wire.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([ask]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"keepgate.v1.Sequences", "keepgate.v1.Models", "grpc.health.v1.Health"} <= names


def test_an_idle_server_stops_at_once(start_server: Start) -> None:
    server = start_server()
    assert server.stop() == 0
    assert '"event": "ready"' in server.log()
    assert '"event": "stopped"' in server.log()


def test_work_in_flight_is_answered_before_the_end(start_server: Start) -> None:
    server = start_server(drain_seconds=60)
    with connect(server.address) as wire:
        session, other = wire.open(), wire.open()
        request = pb.GenerateRequest(
            session_id=session, prompt=inputs("a"), max_tokens=3_000, sampling=pb.Sampling(temperature=1)
        )
        call = wire.sequences.Generate(request, timeout=DEADLINE)
        next(call)
        server.terminate()
        while health(wire) == SERVING:
            pass
        assert health(wire) == NOT_SERVING
        error = failure(wire.open)
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
        assert error.retry_after > 0
        assert wire.step(other, "a", 0).position == 1  # open sessions go on
        messages = list(call)
        assert len(messages) == 2_999
        assert messages[-1].finish_reason == pb.FINISH_REASON_MAX_TOKENS
        assert server.wait() == 0


def test_a_drain_sends_durable_sessions_away(start_server: Start, tmp_path: Path) -> None:
    server = start_server(drain_seconds=60, store=f"sqlite:{tmp_path / 'sessions'}")
    with connect(server.address) as wire:
        durable, passing = wire.open(durability=pb.DURABILITY_ALWAYS), wire.open()
        before = wire.step(durable, "a", 0)
        request = pb.GenerateRequest(session_id=wire.open(), prompt=inputs("a"), max_tokens=3_000)
        call = wire.sequences.Generate(request, timeout=DEADLINE)
        next(call)
        server.terminate()
        while health(wire) == SERVING:
            pass
        error = failure(lambda: wire.step(durable, "b", 1))
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
        again = wire.step(durable, "a", 0)  # a retry asks for nothing new
        assert again.replayed
        assert again.prediction == before.prediction
        assert wire.step(passing, "b", 0).position == 1
        assert len(list(call)) == 2_999
        assert server.wait() == 0


def test_the_drain_has_an_end(start_server: Start) -> None:
    server = start_server(drain_seconds=0.2)
    with connect(server.address) as wire:
        request = pb.GenerateRequest(session_id=wire.open(), prompt=inputs("a"), max_tokens=16_000)
        call = wire.sequences.Generate(request, timeout=DEADLINE)
        next(call)
        server.terminate()
        error = failure(lambda: list(call))
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
        assert server.wait() == 0
        assert '"event": "calls cut off"' in server.log()


def test_a_second_signal_ends_the_drain(start_server: Start) -> None:
    server = start_server(drain_seconds=3_600)
    with connect(server.address) as wire:
        request = pb.GenerateRequest(session_id=wire.open(), prompt=inputs("a"), max_tokens=16_000)
        call = wire.sequences.Generate(request, timeout=DEADLINE)
        next(call)
        server.terminate()
        while '"event": "draining"' not in server.log():
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGINT)
        assert failure(lambda: list(call)).reason == "DRAINING"
        assert server.wait() == 0


def test_a_killed_server_is_unavailable(start_server: Start) -> None:
    server = start_server()
    with connect(server.address) as wire:
        session = wire.open()
        server.kill()
        with pytest.raises(grpc.RpcError) as caught:
            wire.step(session, "a")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_port_in_use_is_an_error(start_server: Start) -> None:
    server = start_server()
    port = server.address.rpartition(":")[2]
    with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}: is it in use") as caught:
        start_server(port=port)
    assert "exited with 1" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_bad_settings_are_an_error(start_server: Start) -> None:
    with pytest.raises(RuntimeError, match="max_batch: got '0'") as caught:
        start_server(max_batch=0)
    assert "Traceback" not in str(caught.value)


def test_no_models_are_an_error(start_server: Start, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no model in .* can serve") as caught:
        start_server(models=tmp_path)
    assert "Traceback" not in str(caught.value)


def test_a_bad_model_is_reported_and_the_others_serve(start_server: Start, tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models")
    file = models / "letters" / "2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    server = start_server(models=models)
    assert "truncated: ends at" in server.log()
    with connect(server.address) as wire:
        described = wire.models.Describe(models_pb2.DescribeModelRequest(name="letters")).model
        assert described.version == "1"
        assert wire.step(wire.open(), "abc").position == 3


def test_an_oversized_model_is_refused(start_server: Start) -> None:
    with pytest.raises(RuntimeError, match=r"oversized: .* expected at most 100"):
        start_server(max_model_bytes=100)


def test_expired_sessions_give_their_state_back(start_server: Start) -> None:
    server = start_server(max_sessions=1, idle_ttl_seconds=0.3)
    with connect(server.address) as wire:
        first = wire.open()
        assert failure(wire.open).reason == "SESSIONS_EXHAUSTED"
        wire.step(first, "abc")
        while True:
            listed = wire.sequences.List(pb.ListRequest())
            if not listed.sessions:
                break
            time.sleep(0.02)
        second = wire.open()
        assert failure(lambda: wire.step(first, "d")).reason == "SESSION_EXPIRED"
        # The state that was given back starts from zero.
        third_opinion = wire.open("letters", version="1", idle_ttl=Duration(seconds=60))
        assert wire.step(second, "x").position == 1
        assert wire.step(third_opinion, "x").position == 1


def test_a_reused_state_starts_from_zero(start_server: Start) -> None:
    with connect(start_server(slots=1).address) as wire:
        replies = []
        for _ in range(3):
            session = wire.open()
            replies.append(wire.step(session, "abc", 0, outputs=pb.Outputs(logits=True, hidden=True)))
            wire.step(session, "something else")
            wire.close(session)
        assert replies[0] == replies[1] == replies[2]


def test_the_ready_file_has_the_address(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    assert host == "127.0.0.1"
    assert 0 < int(port) < 65_536


def test_log_lines_for_people(start_server: Start) -> None:
    server = start_server(log_format="human", log_level="info")
    assert server.stop() == 0
    assert "ready" in server.log()
    assert "{" not in server.log()


def last_used(wire: Wire, session: str) -> float:
    reply = wire.sequences.Describe(pb.DescribeRequest(session_id=session), timeout=DEADLINE)
    return float(reply.session.last_used.ToNanoseconds() / 1e9)


@pytest.mark.parametrize("log_format", ["human", "json"])
@pytest.mark.parametrize("second_signal", [False, True])
def test_heavy_work_that_is_cut_off_leaves_no_trace(
    start_server: Start, log_format: str, second_signal: bool
) -> None:
    server = start_server(
        models=BUNDLED_MODELS, drain_seconds=3_600 if second_signal else 0.1, log_format=log_format
    )
    with connect(server.address) as wire:
        sessions = [wire.open("shakespeare-lstm") for _ in range(4)]
        created = [last_used(wire, session) for session in sessions]
        text = inputs("a" * 16_384)
        calls = [
            wire.sequences.Step.future(pb.StepRequest(session_id=session, inputs=text))
            for session in sessions
        ]
        for session, before in zip(sessions, created, strict=True):
            while last_used(wire, session) < before + 1e-4:  # the clocks' offset jitters by less
                pass
        server.terminate()
        while "draining" not in server.log():
            time.sleep(0.01)
        if second_signal:
            os.kill(server.pid, signal.SIGINT)
        for call in calls:
            assert failure(call.result).reason == "DRAINING"
        assert server.wait() == 0
        assert "calls cut off" in server.log()
        assert "Traceback" not in server.log()
        assert "error" not in server.log().lower()


@pytest.mark.parametrize("ready_file", ["none/ready", "."])
def test_a_ready_file_that_cannot_be_written_is_an_error(
    start_server: Start, tmp_path: Path, ready_file: str
) -> None:
    with pytest.raises(RuntimeError, match="ready_file: ") as caught:
        start_server(ready_file=tmp_path / ready_file)
    assert "model loaded" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_lanes_take_memory_only_as_they_are_used(start_server: Start, tmp_path: Path) -> None:
    """65,536 lanes of 524,288 outputs would be 128 GiB."""
    write_model(tmp_path / "wide", "wide", 1, feature_spec(outputs=1 << 19, hidden=(1,)))
    server = start_server(models=tmp_path / "wide", max_batch=65_536, max_sessions=2)
    with connect(server.address) as wire:
        prediction = wire.step(wire.open("wide"), [1.0, 2.0, 3.0], 0).prediction
    assert len(prediction.outputs) == 1 << 19


def test_tracebacks_for_people_hold_no_inputs() -> None:
    program = textwrap.dedent(
        """
        import structlog
        from keepgate.logs import configure_logs

        configure_logs("human", "info")
        text = "sec" + "ret"
        try:
            raise ValueError("a bug")
        except ValueError as error:
            structlog.get_logger().error("call failed", exc_info=error)
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "ValueError: a bug" in ran.stderr
    assert "secret" not in ran.stderr
