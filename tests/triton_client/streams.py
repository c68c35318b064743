"""Requests on one stream."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from triton_client.common import SECONDS, inputs, native, number, row, tensor


@contextmanager
def stream(address: str, **more: Any) -> Iterator[tuple[Any, queue.Queue[Any]]]:
    """A client with a stream, and where its answers (result, error) come."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), **more)
        yield client, answers
        client.stop_stream()


def send(client: Any, model: str, values: Any, request_id: str, **more: Any) -> None:
    client.async_stream_infer(model, [tensor(values)], request_id=request_id, **more)


def interleaved(address: str, model: str) -> None:
    """Two sequences, all requests sent ahead, answered in the order of the requests."""
    key = number()
    with stream(address) as (client, answers):
        steps = {key: inputs(client, model, 20, 1), f"s{key}": inputs(client, model, 20, 2)}
        sent = []
        for index in range(20):
            for sequence, values in steps.items():
                sent.append(f"{sequence}:{index}")
                more = {"sequence_id": sequence, "sequence_start": index == 0, "sequence_end": index == 19}
                send(client, model, values[index], sent[-1], enable_empty_final_response=True, **more)
        rows: dict[Any, list[Any]] = {str(sequence): [] for sequence in steps}
        for expected in sent:
            result, error = answers.get(timeout=SECONDS)
            assert error is None, error
            response = result.get_response()
            assert response.id == expected
            assert response.parameters["triton_final_response"].bool_param is True
            assert len(response.raw_output_contents) == len(response.outputs) > 0
            rows[expected.partition(":")[0]].append(row(result, model))
        for sequence, values in steps.items():
            assert rows[str(sequence)] == native(address, model, values)
    assert answers.empty()  # no empty response follows a final one


def interleaved_aio(address: str, model: str) -> None:
    key = number()
    with triton.InferenceServerClient(address) as client:
        steps = {key: inputs(client, model, 8, 3), f"{key}-a": inputs(client, model, 8, 4)}

    async def requests() -> Any:
        for index in range(8):
            for sequence, values in steps.items():
                yield {
                    "model_name": model,
                    "inputs": [tensor(values[index])],
                    "request_id": str(sequence),
                    "sequence_id": sequence,
                    "sequence_start": index == 0,
                    "sequence_end": index == 7,
                }

    async def main() -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {str(sequence): [] for sequence in steps}
        async with triton_aio.InferenceServerClient(address) as client:
            async for result, error in client.stream_infer(requests(), stream_timeout=SECONDS):
                assert error is None, error
                rows[result.get_response().id].append(row(result, model))
        return rows

    rows = asyncio.run(main())
    for sequence, values in steps.items():
        assert rows[str(sequence)] == native(address, model, values)


def in_band(address: str, model: str) -> None:
    """An error is an answer, and the stream and the sequence live on."""
    key = number()
    with stream(address) as (client, answers):
        steps = inputs(client, model, 3, 5)
        expected = native(address, model, steps)
        send(client, model, steps[0], "a", sequence_id=key, sequence_start=True)
        send(client, model, steps[0], "b", sequence_id=f"no-{key}")
        send(client, "nobody", steps[0], "c", sequence_id=key)
        send(client, model, [9999], "d", sequence_id=key, sequence_end=True)
        send(client, model, steps[1], "e", sequence_id=key, sequence_end=True)
        send(client, model, steps[2], "f", sequence_id=key)
        send(client, model, steps[0], "g", sequence_id=key, sequence_start=True)
        told = [answers.get(timeout=SECONDS) for _ in range(7)]
    texts = ["" if error is None else error.message() for _, error in told]
    start = "must specify the START flag on the first request of the sequence"
    assert start in texts[1]
    assert f"sequence no-{key} to model '{model}'" in texts[1]
    assert "unknown model" in texts[2]
    assert "tokens[0]: got 9999" in texts[3]
    assert start in texts[5]
    assert "is closed" in texts[5]
    for index, bits in ((0, expected[0]), (4, expected[1]), (6, expected[0])):
        assert row(told[index][0], model) == bits


def raw_error(address: str, model: str) -> tuple[str, str, dict[str, str]]:
    """What of an in-band error the client does not show: id, and the reason in the parameters."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with triton.InferenceServerClient(address) as client:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
        request = service_pb2.ModelInferRequest(model_name=model, id="seventeen")
        request.parameters["sequence_id"].int64_param = number()
        (answer,) = stub.ModelStreamInfer(iter([request]), timeout=SECONDS)
        response = answer.infer_response
        assert response.parameters["triton_final_response"].bool_param is True
        reasons = {
            name: value.string_param
            for name, value in response.parameters.items()
            if name.startswith("keepgate_")
        }
        return answer.error_message, response.id, reasons


def grpc_error(address: str, model: str) -> str:
    """With the header triton_grpc_error, the first error ends the stream with a status. Which."""
    key = number()
    with stream(address, headers={"triton_grpc_error": "true"}) as (client, answers):
        steps = inputs(client, model, 1, 6)
        send(client, model, steps[0], "a", sequence_id=key, sequence_start=True)
        result, error = answers.get(timeout=SECONDS)
        assert error is None
        send(client, model, steps[0], "b", sequence_id=f"no-{key}")
        result, error = answers.get(timeout=SECONDS)
        assert result is None
        return str(error.status())


def timeouts(address: str, model: str, long: int) -> None:
    """A request that waits longer than it allows is refused, and the sequence goes on where it was."""
    key = number()
    with stream(address) as (client, answers):
        (first,) = inputs(client, model, 1, 7)
        send(client, model, [1] * long, "a", sequence_id=key, sequence_start=True)
        send(client, model, first, "b", sequence_id=key, timeout=1)
        told = [answers.get(timeout=SECONDS) for _ in range(2)]
        assert told[0][1] is None
        assert "Request timeout expired" in told[1][1].message()
        send(client, model, first, "d", sequence_id=key, timeout=60_000_000)
        result, error = answers.get(timeout=SECONDS)
        assert error is None
        assert result.get_response().parameters["keepgate_position"].int64_param == long + 1
        assert row(result, model) == native(address, model, [[1] * long, first])[1]


def sent_ahead(address: str, model: str) -> None:
    """Starts, restarts and ends of one sequence, all sent before any is answered."""
    key = number()
    with stream(address) as (client, answers):
        steps = inputs(client, model, 3, 8)
        expected = native(address, model, steps)
        plan = [
            (0, True, False),
            (1, False, False),
            (0, True, False),
            (1, False, False),
            (2, False, True),
        ] * 4
        for index, start, end in plan:
            send(client, model, steps[index], "", sequence_id=key, sequence_start=start, sequence_end=end)
        for index, _, _ in plan:
            result, error = answers.get(timeout=SECONDS)
            assert error is None, error
            assert row(result, model) == expected[index]


def drained(address: str, model: str, pid: int) -> tuple[str, str]:
    """The server is told to end while a stream is open: what the stream says then."""
    with stream(address) as (client, answers):
        steps = inputs(client, model, 1, 9)
        send(client, model, steps[0], "", sequence_id=number(), sequence_start=True)
        result, error = answers.get(timeout=SECONDS)
        assert error is None
        os.kill(pid, signal.SIGTERM)
        result, error = answers.get(timeout=SECONDS)
        assert result is None
        return str(error.status()), error.message()
