"""Sequences, call by call."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from keepgate_client import Client

from triton_client.common import SECONDS, infer, inputs, names_of, native, number, refused, row, tensor


def interleaved(address: str, model: str) -> None:
    """Two sequences at once, one by number and one by text of the same digits."""
    key = number()
    with triton.InferenceServerClient(address) as client:
        steps = {key: inputs(client, model, 6, 1), str(key): inputs(client, model, 6, 2)}
        rows: dict[Any, list[Any]] = {key: [], str(key): []}
        for index in range(6):
            for sequence, values in steps.items():
                result = infer(
                    client,
                    model,
                    values[index],
                    sequence_id=sequence,
                    sequence_start=index == 0,
                    sequence_end=index == 5,
                    request_id=f"{sequence}/{index}",
                )
                response = result.get_response()
                assert response.id == f"{sequence}/{index}"
                assert len(response.raw_output_contents) == len(response.outputs) == len(names_of(model))
                assert response.parameters["keepgate_position"].int64_param == index + 1
                rows[sequence].append(row(result, model))
        for sequence, values in steps.items():
            assert rows[sequence] == native(address, model, values)


def interleaved_aio(address: str, model: str) -> None:
    """The same with asyncio, both sequences in flight at once."""

    async def follow(client: Any, sequence: int | str, values: list[Any]) -> list[Any]:
        rows = []
        for index, value in enumerate(values):
            result = await client.infer(
                model,
                [tensor(value)],
                sequence_id=sequence,
                sequence_start=index == 0,
                sequence_end=index == len(values) - 1,
                client_timeout=SECONDS,
            )
            rows.append(row(result, model))
        return rows

    async def main(steps: dict[Any, list[Any]]) -> list[list[Any]]:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_live()
            return await asyncio.gather(*(follow(client, *item) for item in steps.items()))

    key = number()
    with triton.InferenceServerClient(address) as client:
        steps = {key: inputs(client, model, 6, 3), f"{key} ü/%": inputs(client, model, 6, 4)}
    for rows, values in zip(asyncio.run(main(steps)), steps.values(), strict=True):
        assert rows == native(address, model, values)


def restart(address: str, model: str) -> None:
    """START on a live sequence begins it anew, and may be sent twice."""
    key = number()
    with triton.InferenceServerClient(address) as client:
        steps = inputs(client, model, 3, 5)
        expected = native(address, model, steps)
        for _ in range(2):
            for index in (0, 0, 1, 2):
                result = infer(client, model, steps[index], sequence_id=key, sequence_start=index == 0)
                assert row(result, model) == expected[index]


def alone(address: str, model: str) -> None:
    """Without a sequence: all predictions of a whole sequence from zero, again and again."""
    with triton.InferenceServerClient(address) as client:
        steps = inputs(client, model, 5, 6)
        expected = native(address, model, steps)
        whole = np.concatenate(steps)
        for values in (whole, whole[None]):
            result = infer(client, model, values)
            for index, name in enumerate(names_of(model)):
                assert result.as_numpy(name).shape[0] == 5
                assert result.as_numpy(name).tobytes() == b"".join(bits[index] for bits in expected)
            assert "keepgate_position" not in result.get_response().parameters
        result = infer(client, model, whole, parameters={"keepgate_last_only": True})
        assert row(result, model) == expected[-1]


def several_inputs(address: str, model: str) -> None:
    """A step of several inputs is answered with the prediction after the last."""
    with triton.InferenceServerClient(address) as client:
        whole = np.concatenate(inputs(client, model, 5, 7))
        result = infer(client, model, whole, sequence_id=number(), sequence_start=True, sequence_end=True)
        assert [row(result, model)] == native(address, model, [whole])


def sampling(address: str, model: str) -> None:
    """Tokens are drawn as natively."""
    options = {"temperature": 0.9, "top_k": 5, "top_p": 0.8, "seed": 7}
    with triton.InferenceServerClient(address) as client, Client(address) as natively:
        steps = inputs(client, model, 12, 8)
        wanted = [triton.InferRequestedOutput("token"), triton.InferRequestedOutput("hidden")]
        key, drawn = number(), set()
        with natively.open(model) as session:
            for index, values in enumerate(steps):
                result = infer(
                    client,
                    model,
                    values,
                    outputs=wanted,
                    sequence_id=key,
                    sequence_start=index == 0,
                    parameters=options,
                )
                told = session.step(tokens=values.tolist(), hidden=True, **options)  # type: ignore[arg-type]
                assert [output.name for output in result.get_response().outputs] == ["token", "hidden"]
                assert result.as_numpy("token").tolist() == [told.token]
                assert result.as_numpy("hidden").tobytes() == np.concatenate(told.hidden).tobytes()
                drawn.add(told.token)
    assert len(drawn) > 1


def retries(address: str, model: str) -> None:
    """A step that names its position is applied once; others are refused."""
    key = number()
    with triton.InferenceServerClient(address) as client:
        steps = inputs(client, model, 3, 9)
        expected = native(address, model, steps)
        for index, times in ((0, 1), (1, 3), (2, 2)):
            for again in range(times):
                result = infer(
                    client,
                    model,
                    steps[index],
                    sequence_id=key,
                    sequence_start=index == 0,
                    parameters={"keepgate_position": index},
                )
                parameters = result.get_response().parameters
                assert row(result, model) == expected[index]
                assert parameters["keepgate_replayed"].bool_param == (again > 0)
                assert parameters["keepgate_position"].int64_param == index + 1


def visible(address: str, model: str) -> list[str]:
    """Sequences are sessions: their ids, and what the native API goes on with."""
    ids = []
    with triton.InferenceServerClient(address) as client, Client(address) as natively:
        steps = inputs(client, model, 2, 10)
        expected = native(address, model, steps)
        for sequence in (-5, "5", "a b/ü~", "x" * 200, "a.b"):
            result = infer(client, model, steps[0], sequence_id=sequence, sequence_start=True)
            session_id = result.get_response().parameters["keepgate_session"].string_param
            session = natively.attach(session_id)
            told = session.step(tokens=steps[1].tolist(), logits=True)
            assert told.logits is not None
            assert told.logits.tobytes() == expected[1][0]
            result = infer(client, model, steps[0], sequence_id=sequence, sequence_end=True)
            assert result.get_response().parameters["keepgate_position"].int64_param == 3
            ids.append(session_id)
    return ids


def expired(address: str, model: str) -> None:
    """The server's idle_ttl is short: a sequence that was not used meanwhile has to be started again."""
    key = number()
    with triton.InferenceServerClient(address) as client:
        infer(client, model, [1], sequence_id=key, sequence_start=True)
        time.sleep(0.1)
        status, text = refused(lambda: infer(client, model, [1], sequence_id=key))
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "must specify the START flag on the first request of the sequence: it expired" in text
        infer(client, model, [1], sequence_id=key, sequence_start=True)


def typed(address: str, model: str) -> None:
    """Elements in the message's typed fields, as other clients send them."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with triton.InferenceServerClient(address) as client:
        values = np.concatenate(inputs(client, model, 4, 11))
        expected = infer(client, model, values).get_response()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
        request = service_pb2.ModelInferRequest(model_name=model)
        given = request.inputs.add(name="tokens", datatype="INT32", shape=values.shape)
        if values.dtype.kind == "f":
            given.name, given.datatype = "features", "FP32"
            given.contents.fp32_contents.extend(values.ravel().tolist())
        else:
            given.contents.int_contents.extend(values.tolist())
        assert stub.ModelInfer(request, timeout=SECONDS) == expected
