"""What perf_analyzer calls and checks for a sequence benchmark over gRPC, call by call.

After its sources: perf_analyzer.cc (CreateAnalyzerObjects), model_parser.cc, infer_context.cc,
inference_profiler.cc and client_backend/triton/. The checks that it makes are assertions here.
"""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToDict

from triton_client.common import SECONDS, number

LENGTH = 20
"""Requests of a sequence, --sequence-length; it is the tool's default."""
CONCURRENCY = 3


def benchmark(address: str, model: str, streaming: bool) -> None:
    """--shape NAME:1,... --input-data zero -b 1, with sequences of CONCURRENCY clients at once."""
    with triton.InferenceServerClient(address) as client:
        assert "statistics" in client.get_server_metadata().extensions
        metadata = _json(client.get_model_metadata(model))
        config = _json(client.get_model_config(model))["config"]
        tensors = _parse(metadata, config)
        before = _statistics(client, model)
        (_streamed if streaming else _called)(address, model, tensors)
        _summarize(before, _statistics(client, model))


def _json(message: Any) -> dict[str, Any]:
    """As the tool does: fields without presence are printed though they are empty."""
    return dict(
        MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


def _parse(metadata: dict[str, Any], config: dict[str, Any]) -> list[Any]:
    """ModelParser.InitTriton; the inputs of a request."""
    assert config["platform"] != "ensemble"
    assert "sequence_batching" in config  # SchedulerType() == SEQUENCE
    assert config.get("model_transaction_policy", {"decoupled": False})["decoupled"] is False
    assert not config.get("response_cache", {"enable": False})["enable"]
    assert config["max_batch_size"] == 0  # so -b is 1, and no dimension of shapes is the batch's
    names = {each["name"] for each in metadata["inputs"]}
    assert {each["name"] for each in config["input"]} <= names
    assert {each["name"] for each in config["output"]} <= {each["name"] for each in metadata["outputs"]}
    inputs = []
    for each in metadata["inputs"]:
        shape = [1 if int(size) == -1 else int(size) for size in each["shape"]]  # --shape
        dtype = {"INT32": np.int32, "FP32": np.float32}[each["datatype"]]
        made = triton.InferInput(each["name"], shape, each["datatype"])
        inputs.append(made.set_data_from_numpy(np.zeros(shape, dtype)))  # --input-data zero
    return inputs


def _options(index: int, sequence: int) -> dict[str, Any]:
    return {
        "sequence_id": sequence,
        "sequence_start": index == 0,
        "sequence_end": index == LENGTH - 1,
        "request_id": str(sequence * LENGTH + index),
    }


def _called(address: str, model: str, inputs: list[Any]) -> None:
    """--async without --streaming: the next request of a sequence when the one before is answered."""
    sequences = [number() for _ in range(CONCURRENCY)]
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        for index in range(LENGTH):
            for sequence in sequences:
                client.async_infer(
                    model,
                    inputs,
                    lambda result, error: answers.put((result, error)),
                    client_timeout=SECONDS,
                    **_options(index, sequence),
                )
            ids = {_checked(*answers.get(timeout=SECONDS)) for _ in sequences}
            assert ids == {str(sequence * LENGTH + index) for sequence in sequences}


def _streamed(address: str, model: str, inputs: list[Any]) -> None:
    """--streaming: the same on one stream, which tells of each response whether it is the final one."""
    sequences = [number() for _ in range(CONCURRENCY)]
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for index in range(LENGTH):
            for sequence in sequences:
                client.async_stream_infer(
                    model, inputs, enable_empty_final_response=True, **_options(index, sequence)
                )
            for sequence in sequences:
                result, error = answers.get(timeout=SECONDS)
                assert _checked(result, error) == str(sequence * LENGTH + index)
                assert result.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()
    assert answers.empty()


def _checked(result: Any, error: Any) -> str:
    assert error is None, error
    response = result.get_response()
    assert response.outputs  # else it is a null response
    return str(response.id)


def _statistics(client: Any, model: str) -> dict[tuple[str, str], Any]:
    stats = client.get_inference_statistics(model).model_stats
    return {(each.name, each.version): each for each in stats}


def _summarize(before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]) -> None:
    """InferenceProfiler.DetermineStatsModelVersion and SummarizeServerStatsHelper."""

    def queued(stats: dict[tuple[str, str], Any], key: tuple[str, str]) -> int:
        return int(stats[key].inference_stats.queue.count) if key in stats else 0

    grown = [key for key in after if queued(after, key) > queued(before, key)]
    assert len(grown) == 1  # else "failed to find the requested model version"
    (key,) = grown
    assert str(int(key[1])) == key[1]  # std::stoll, and back
    steps = LENGTH * CONCURRENCY
    start, end = before[key], after[key]
    assert end.inference_count - start.inference_count == steps
    assert 0 < end.execution_count - start.execution_count <= steps
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        first, last = getattr(start.inference_stats, name), getattr(end.inference_stats, name)
        assert last.count - first.count == steps, name
        assert last.ns >= first.ns
    for name in ("success", "compute_infer"):
        assert getattr(end.inference_stats, name).ns > getattr(start.inference_stats, name).ns
    for name in ("cache_hit", "cache_miss"):
        assert getattr(end.inference_stats, name).count == 0
    total, queue_ns, compute = (
        getattr(end.inference_stats, name).ns - getattr(start.inference_stats, name).ns
        for name in ("success", "queue", "compute_infer")
    )
    assert total >= queue_ns
    assert total >= compute
