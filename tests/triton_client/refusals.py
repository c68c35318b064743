"""What is refused, and how."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from triton_client.common import SECONDS, infer, number, refused, tensor


def given(name: str, kind: str, values: Any, shape: list[int] | None = None) -> Any:
    array = np.asarray(values)
    made = triton.InferInput(name, list(array.shape), kind).set_data_from_numpy(array)
    return made.set_shape(shape) if shape is not None else made


def inference(address: str) -> list[tuple[str, str]]:
    """Status and message of requests on the models "letters" (30 tokens) and "vectors" (3 features)."""
    one = tensor([1])
    memory = triton.InferInput("tokens", [1], "INT32")
    memory.set_shared_memory("region", 4)
    classes = [triton.InferRequestedOutput("logits", class_count=3)]
    live = number()
    requests: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("nobody", [one], {}),
        ("letters", [one], {"model_version": "9"}),
        ("letters", [], {}),
        ("letters", [one, one], {}),
        ("letters", [given("words", "INT32", np.array([1], np.int32))], {}),
        ("letters", [given("tokens", "INT64", np.array([1], np.int64))], {}),
        ("letters", [given("tokens", "INT32", np.array([1, 2], np.int32), [2, 1])], {"sequence_id": live}),
        ("letters", [given("tokens", "INT32", np.array([1, 2], np.int32), [3])], {}),
        ("letters", [given("tokens", "INT32", np.array([1, 2], np.int32), [-1])], {}),
        ("letters", [given("tokens", "INT32", np.array([], np.int32), [0])], {}),
        ("letters", [tensor([1, 30])], {}),
        ("letters", [tensor([-1])], {}),
        ("vectors", [tensor([[1.0, float("nan"), 0.0]])], {}),
        ("vectors", [tensor([[1.0, 2.0]])], {}),
        ("letters", [one], {"outputs": [triton.InferRequestedOutput("outputs")]}),
        ("letters", [one], {"outputs": [triton.InferRequestedOutput("gates")]}),
        ("letters", [memory], {}),
        ("letters", [one], {"outputs": classes}),
        ("letters", [one], {"sequence_id": f"unknown-{number()}"}),
        ("letters", [one], {"sequence_id": live, "model_version": "1"}),
        ("letters", [one], {"sequence_id": live, "parameters": {"keepgate_position": 7}}),
        ("letters", [tensor([2])], {"sequence_id": live, "parameters": {"keepgate_position": 0}}),
        ("letters", [one], {"parameters": {"keepgate_position": 0}}),
        ("letters", [one], {"parameters": {"keepgate_positron": 0}}),
        ("letters", [one], {"parameters": {"temperature": -1.0}}),
        ("letters", [one], {"parameters": {"seed": "x"}}),
        ("vectors", [tensor([[1.0, 2.0, 3.0]])], {"parameters": {"temperature": 0.5}}),
        ("letters", [one], {"timeout": -1}),
        ("letters", [one], {"parameters": {"top_k": -1}}),
    ]
    told = []
    with triton.InferenceServerClient(address) as client:
        infer(client, "letters", [1], sequence_id=live, sequence_start=True)
        for model, inputs, more in requests:
            told.append(refused(partial(client.infer, model, inputs, client_timeout=SECONDS, **more)))
        result = infer(client, "letters", [1], sequence_id=live, sequence_end=True)
        position = result.get_response().parameters["keepgate_position"].int64_param
        assert position == 2, "something that was refused was applied"
    return told


def details(address: str) -> list[tuple[str, dict[str, str]]]:
    """Reasons and metadata in the trailers of two refusals."""
    import grpc
    from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="letters")
    request.parameters["sequence_id"].int64_param = 10**15
    found = []
    with grpc.insecure_channel(address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        memory = service_pb2.SystemSharedMemoryStatusRequest()
        for method, message in ((stub.ModelInfer, request), (stub.SystemSharedMemoryStatus, memory)):
            try:
                method(message, timeout=SECONDS)
            except grpc.RpcError as error:
                ended: Any = error
                trailers = dict(ended.trailing_metadata())
                status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
                info = error_details_pb2.ErrorInfo()
                assert status.details[0].Unpack(info)
                found.append((info.reason, dict(info.metadata)))
    return found


def too_large(address: str) -> tuple[str, str]:
    """All logits of a long text on a model "large"; those of the last token, and all tokens, are allowed."""
    tokens = [1] * 16_384
    with triton.InferenceServerClient(address) as client:
        result = infer(client, "large", tokens, parameters={"keepgate_last_only": True})
        assert result.as_numpy("logits").shape == (1, 1_100)
        result = infer(client, "large", tokens, outputs=[triton.InferRequestedOutput("token")])
        assert result.as_numpy("token").shape == (16_384,)
        return refused(lambda: infer(client, "large", tokens))


def unknown_sequence_flags(address: str) -> tuple[str, str]:
    """sequence_start without a sequence: the client library leaves it out, others may not."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name="letters")
    request.parameters["sequence_start"].bool_param = True
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ModelInfer(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())
    raise AssertionError("it was not refused")


def shared_memory(address: str) -> list[tuple[str, str]]:
    with triton.InferenceServerClient(address) as client:
        return [
            refused(client.get_system_shared_memory_status),
            refused(lambda: client.register_system_shared_memory("a", "/a", 4)),
            refused(client.unregister_system_shared_memory),
            refused(client.get_cuda_shared_memory_status),
            refused(lambda: client.register_cuda_shared_memory("a", b"AAAA", 0, 4)),
            refused(client.unregister_cuda_shared_memory),
        ]
