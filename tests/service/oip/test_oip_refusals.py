"""What tritonclient is refused: Triton's status codes, texts that say what was expected, and details."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keepgate_protos.oip import grpc_service_pb2 as pb
from support.random_models import token_spec
from support.repositories import write_model
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, failure
from triton_client.process import TritonProcess

EXPECTED = [
    ("NOT_FOUND", "Request for unknown model"),
    ("NOT_FOUND", "version '9' of model 'letters' is not found"),
    ("INVALID_ARGUMENT", "inputs: got nothing, expected 'tokens'"),
    ("INVALID_ARGUMENT", "inputs: got 'tokens', 'tokens', expected 'tokens'"),
    ("INVALID_ARGUMENT", "inputs: got 'words', expected 'tokens', the input of model 'letters'"),
    ("INVALID_ARGUMENT", "inputs[0].datatype: got 'INT64', expected INT32"),
    ("INVALID_ARGUMENT", "got [2, 1], expected 1 first: a sequence must specify batch-size 1"),
    ("INVALID_ARGUMENT", "raw_input_contents[0]: got 8 bytes, expected 12, as the shape says"),
    ("INVALID_ARGUMENT", "inputs[0].shape: got [-1], expected from 1 to 16384 inputs"),
    ("INVALID_ARGUMENT", "inputs[0].shape: got [0], expected from 1 to 16384 inputs"),
    ("INVALID_ARGUMENT", "tokens[1]: got 30, expected from 0 to less than 30"),
    ("INVALID_ARGUMENT", "tokens[0]: got -1, expected from 0 to less than 30"),
    ("INVALID_ARGUMENT", "features[1]: got nan, expected a magnitude of at most 1e+30"),
    ("INVALID_ARGUMENT", "inputs[0].shape: got [1, 2], expected [-1, 3]"),
    ("INVALID_ARGUMENT", "outputs[0].name: got 'outputs', expected one of logits, token, hidden"),
    ("INVALID_ARGUMENT", "got 'gates', expected another: the kernels keep no activations of gates"),
    ("UNIMPLEMENTED", "shared memory for tensor 'tokens': not supported"),
    ("UNIMPLEMENTED", "classes for tensor 'logits': not supported"),
    ("INVALID_ARGUMENT", "must specify the START flag on the first request of the sequence: it is unknown"),
    ("INVALID_ARGUMENT", "model_version: got '1', expected '2', which the sequence began on"),
    ("FAILED_PRECONDITION", "position: got 7, expected 1"),
    ("FAILED_PRECONDITION", "another request was applied"),
    ("INVALID_ARGUMENT", "got 0, expected nothing: no sequence_id is given"),
    ("INVALID_ARGUMENT", "parameters['keepgate_positron']: got an unknown parameter of a reserved prefix"),
    ("INVALID_ARGUMENT", "parameters.temperature: got -1, expected a finite number, at least 0"),
    ("INVALID_ARGUMENT", "parameters['seed']: got string_param, expected int64_param or uint64_param"),
    ("INVALID_ARGUMENT", "model 'vectors' draws no tokens"),
    ("INVALID_ARGUMENT", "parameters['timeout']: got -1, expected an integer from 0"),
    ("INVALID_ARGUMENT", "parameters['top_k']: got -1, expected an integer from 0"),
]


def test_inference(triton: TritonProcess, server: ServerProcess) -> None:
    told = triton.run("refusals.inference", server.address)
    for (status, text), (got_status, got_text) in zip(EXPECTED, told, strict=True):
        assert (got_status, text in got_text) == (f"StatusCode.{status}", True), got_text


def test_details(triton: TritonProcess, server: ServerProcess) -> None:
    (first, first_metadata), (second, second_metadata) = triton.run("refusals.details", server.address)
    assert first == "SEQUENCE_NOT_STARTED"
    assert first_metadata == {"sequence_id": str(10**15), "model": "letters", "cause": "SESSION_NOT_FOUND"}
    assert (second, second_metadata) == ("UNSUPPORTED", {"what": "system shared memory"})


def test_sequence_flags_without_a_sequence(triton: TritonProcess, server: ServerProcess) -> None:
    status, text = triton.run("refusals.unknown_sequence_flags", server.address)
    assert status == "INVALID_ARGUMENT"
    assert "inference requests to model 'letters' specify a non-zero or non-empty correlation ID" in text


def test_shared_memory(triton: TritonProcess, server: ServerProcess) -> None:
    told = triton.run("refusals.shared_memory", server.address)
    assert [status for status, _ in told] == ["StatusCode.UNIMPLEMENTED"] * 6
    for index, (_, text) in enumerate(told):
        kind = "system" if index < 3 else "CUDA"
        assert (
            text
            == f"{kind} shared memory: not supported: a step's tensors are small; send them in the message"
        )


def test_repository_control_is_the_operators(triton: TritonProcess, server: ServerProcess) -> None:
    for status, text in triton.run("server.repository", server.address):
        assert status == "StatusCode.PERMISSION_DENIED"
        assert "oip_repository_control is off" in text


def test_answers_have_a_largest_size(
    triton: TritonProcess, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "large", 1, token_spec("gru", vocabulary=1_100))
    server = start_server(models=tmp_path / "models")
    status, text = triton.run("refusals.too_large", server.address)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "16384 inputs, whose outputs take 72155136 bytes, expected at most 67108864" in text


def test_a_request_that_does_not_parse(wire: Wire) -> None:
    call: Any = wire.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    error = failure(lambda: call(b"\x0a\x05s", timeout=DEADLINE))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


def test_a_stream_answers_what_came_before_a_request_that_does_not_parse(wire: Wire) -> None:
    good = pb.ModelInferRequest(model_name="nobody", id="first").SerializeToString()
    stream: Any = wire.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    answers = stream(iter([good, b"\x0a\x05s"]), timeout=DEADLINE)
    assert pb.ModelStreamInferResponse.FromString(next(answers)).infer_response.id == "first"
    error = failure(lambda: next(answers))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
