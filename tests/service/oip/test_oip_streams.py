"""How streams end, and what their errors tell, beside what tritonclient shows of it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from keepgate_protos.oip import grpc_service_pb2 as pb
from keepgate_protos.oip import grpc_service_pb2_grpc
from support.metrics import Metrics
from support.random_models import token_spec
from support.repositories import write_model
from support.servers import ServerProcess
from support.wire import DEADLINE, take_apart

AHEAD = 64
"""Requests that are sent and not answered."""
LONG = 4_096
"""Inputs that keep a model of 512 units busy for long after the request behind them was read."""


def infer(sequence: int, values: list[int], model: str = "letters", **more: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=more.pop("id", ""))
    tensor = request.inputs.add(name="tokens", datatype="INT32", shape=[len(values)])
    tensor.contents.int_contents.extend(values)
    request.outputs.add(name="token")
    request.parameters["sequence_id"].int64_param = sequence
    for name, value in more.items():
        request.parameters[name].bool_param = value
    return request


@pytest.fixture
def connect_oip() -> Iterator[Callable[[ServerProcess], Any]]:
    channels = []

    def connect(server: ServerProcess) -> Any:
        channels.append(grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]))
        return grpc_service_pb2_grpc.GRPCInferenceServiceStub(channels[-1])  # type: ignore[no-untyped-call]

    yield connect
    for channel in channels:
        channel.close()


def until_ended(stub: Any, when: Callable[[int], None]) -> tuple[int, grpc.RpcError]:
    """Begin and end a sequence with each request, and read till the server ends the stream: how many it has
    answered, and how it ended. when: called with the number of each answer that is no error."""
    room: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for number in range(1, AHEAD + 1):
        room.put(number)
    requests = (infer(number, [1], sequence_start=True, sequence_end=True) for number in iter(room.get, None))
    answers = 0
    try:
        for answer in stub.ModelStreamInfer(requests, timeout=DEADLINE):
            if not answer.error_message:
                answers += 1
                when(answers)
            room.put(AHEAD + answers)
    except grpc.RpcError as error:
        return answers, error
    finally:
        room.put(None)
    raise AssertionError("the server has not ended the stream")


def durable(tmp_path: Path) -> dict[str, object]:
    """Settings with which each START and END waits for the store."""
    return {"store": f"sqlite:{tmp_path / 'sessions.db'}", "durability": "always"}


def test_an_old_stream_ends_when_all_that_was_applied_is_answered(
    start_server: Callable[..., ServerProcess], connect_oip: Callable[[ServerProcess], Any], tmp_path: Path
) -> None:
    server = start_server(connection_age_seconds=1, **durable(tmp_path))
    stub = connect_oip(server)
    answered = 0
    for _ in range(3):
        answers, error = until_ended(stub, lambda _: None)
        assert take_apart(rpc_status.from_call(error)).reason == "CONNECTION_AGED"
        answered += answers
        (stats,) = stub.ModelStatistics(
            pb.ModelStatisticsRequest(name="letters", version="2"), timeout=DEADLINE
        ).model_stats
        assert stats.inference_count == answered > 0
    assert server.stop() == 0, server.log()
    assert '"level": "error"' not in server.log()


def test_a_drain_does_not_wait_for_what_is_never_answered(
    start_server: Callable[..., ServerProcess], connect_oip: Callable[[ServerProcess], Any], tmp_path: Path
) -> None:
    server = start_server(**durable(tmp_path))

    def drain(answers: int) -> None:
        if answers == 2 * AHEAD:
            server.terminate()

    _, error = until_ended(connect_oip(server), drain)
    assert take_apart(rpc_status.from_call(error)).reason == "DRAINING"
    assert server.wait() == 0, server.log()
    assert "calls cut off" not in server.log()


def test_a_start_that_is_refused_leaves_the_sequence(
    start_server: Callable[..., ServerProcess], connect_oip: Callable[[ServerProcess], Any], tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "heavy", 1, token_spec("lstm", vocabulary=30, hidden=(512,)))
    server = start_server(models=tmp_path / "models", max_pending_steps=LONG, max_inputs_per_request=LONG)
    stub = connect_oip(server)
    stub.ModelInfer(infer(2, [1] * 5, "heavy", sequence_start=True), timeout=DEADLINE)
    requests = [
        infer(1, [1] * LONG, "heavy", sequence_start=True),
        infer(2, [1] * 10, "heavy", sequence_start=True),
    ]
    first, second = stub.ModelStreamInfer(iter(requests), timeout=DEADLINE)
    assert first.infer_response.parameters["keepgate_position"].int64_param == LONG
    assert second.infer_response.parameters["keepgate_reason"].string_param == "STEPS_EXHAUSTED"
    answer = stub.ModelInfer(infer(2, [2], "heavy"), timeout=DEADLINE)
    assert answer.parameters["keepgate_position"].int64_param == 6


def test_errors_on_a_stream_are_counted_and_tell_the_request(
    start_server: Callable[..., ServerProcess], connect_oip: Callable[[ServerProcess], Any]
) -> None:
    server = start_server()
    call = connect_oip(server).ModelStreamInfer(
        iter([infer(1, [1]), infer(2, [1]), infer(3, [30], sequence_start=True)]),
        timeout=DEADLINE,
        metadata=(("x-request-id", "seventeen"),),
    )
    told = [answer.infer_response.parameters for answer in call]
    assert [each["keepgate_request_id"].string_param for each in told] == ["seventeen"] * 3
    metrics = Metrics(server)
    assert metrics("keepgate_errors_total", reason="SEQUENCE_NOT_STARTED") == 2
    assert metrics("keepgate_errors_total", reason="INVALID_ARGUMENT") == 1


def test_a_stored_sequence_without_its_model_begins_anew(
    start_server: Callable[..., ServerProcess],
    connect_oip: Callable[[ServerProcess], Any],
    tmp_path: Path,
    repository: Path,
) -> None:
    newer = tmp_path / "newer" / "letters"
    newer.mkdir(parents=True)
    (newer / "2").symlink_to(repository / "letters" / "2")
    settings = durable(tmp_path)
    first = start_server(**settings)
    begin = infer(5, [1, 2, 3], sequence_start=True)
    begin.model_version = "1"
    connect_oip(first).ModelInfer(begin, timeout=DEADLINE)
    first.kill()
    second = start_server(**settings, models=newer.parent)
    stub = connect_oip(second)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(infer(5, [4]), timeout=DEADLINE)
    assert take_apart(rpc_status.from_call(caught.value)).reason == "SESSION_MODEL"
    answer = stub.ModelInfer(infer(5, [1], sequence_start=True), timeout=DEADLINE)
    assert answer.parameters["keepgate_position"].int64_param == 1
    second.kill()
    third = start_server(**settings)
    answer = connect_oip(third).ModelInfer(infer(5, [2]), timeout=DEADLINE)
    assert (answer.model_version, answer.parameters["keepgate_position"].int64_param) == ("2", 2)
