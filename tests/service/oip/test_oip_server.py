"""What tritonclient is told of the server and its models, and what perf_analyzer needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from keepgate import __version__
from keepgate_protos.oip import grpc_service_pb2, model_config_pb2
from support.descriptors import described
from support.operator import operate
from support.repositories import characters_spec, write_model
from support.servers import ServerProcess
from triton_client.process import TritonProcess


def test_what_a_server_tells(triton: TritonProcess, server: ServerProcess) -> None:
    told = triton.run("server.told", server.address, "letters")
    assert told["live"] is told["ready"] is True
    assert told["model_ready"] == [True, True, False, False]
    assert (told["server"]["name"], told["server"]["version"]) == ("keepgate", __version__)
    assert {"sequence", "statistics", "model_repository", "model_configuration"} <= set(
        told["server"]["extensions"]
    )
    assert told["metadata"] == {
        "name": "letters",
        "versions": ["1", "2"],
        "platform": "keepgate",
        "inputs": [{"name": "tokens", "datatype": "INT32", "shape": ["-1"]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": ["-1", "30"]},
            {"name": "token", "datatype": "INT32", "shape": ["-1"]},
            {"name": "hidden", "datatype": "FP32", "shape": ["-1", "28"]},
        ],
    }
    for status, text in told["unknown"]:
        assert (status, "Request for unknown model" in text) == ("StatusCode.NOT_FOUND", True)
    assert [(each["name"], each["version"], each["state"]) for each in told["index"]] == [
        ("ids", "1", "READY"),
        ("letters", "1", "READY"),
        ("letters", "2", "READY"),
        ("vectors", "1", "READY"),
    ]
    assert told["trace"] == {"settings": {"trace_level": {"value": ["OFF"]}}}
    assert told["log"]["settings"]["log_info"] == {"bool_param": True}
    assert told["log"]["settings"]["log_verbose_level"] == {"uint32_param": 0}
    assert [status for status, _ in told["changes"]] == ["StatusCode.UNIMPLEMENTED"] * 2


def test_model_config(triton: TritonProcess, server: ServerProcess) -> None:
    config = triton.run("server.told", server.address, "vectors")["config"]
    assert (config["name"], config["platform"], config["backend"]) == ("vectors", "keepgate", "keepgate")
    assert config["sequence_batching"] == {
        "max_sequence_idle_microseconds": "3600000000",
        "oldest": {"max_candidate_sequences": 100_000, "preserve_ordering": True},
    }
    assert config["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": ["-1", "3"]}]
    assert config["output"] == [
        {"name": "outputs", "data_type": "TYPE_FP32", "dims": ["-1", "2"]},
        {"name": "hidden", "data_type": "TYPE_FP32", "dims": ["-1", "8"]},
    ]
    assert config["parameters"]["cells"] == {"string_value": "gru"}
    assert config["default_model_filename"] == "model.safetensors"
    assert "max_batch_size" not in config  # 0


def test_statistics(triton: TritonProcess, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    before, after = triton.run("server.statistics", server.address, "ids")
    assert [(each["name"], each["version"]) for each in after] == [("ids", "1")]
    assert "inference_count" not in before[0]
    (stats,) = after
    assert int(stats["inference_count"]) == 6
    counts = {name: int(value.get("count", 0)) for name, value in stats["inference_stats"].items()}
    same = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    assert counts == dict.fromkeys(same, 6) | dict.fromkeys(("fail", "cache_hit", "cache_miss"), 0)
    assert int(stats["memory_usage"][0]["byte_size"]) > 0
    assert int(stats["last_inference"]) > 0


def test_repository_control(triton: TritonProcess, start_server: Callable[..., ServerProcess]) -> None:
    triton.run("server.controlled", start_server(oip_repository_control=True).address)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", ["shakespeare-lstm", "el-nino"])
def test_perf_analyzer(triton: TritonProcess, bundled: ServerProcess, model: str, streaming: bool) -> None:
    triton.run("perf_analyzer.benchmark", bundled.address, model, streaming)


def test_messages_are_those_of_tritons_client(triton: TritonProcess) -> None:
    service, config = triton.run("server.descriptors")
    assert described(grpc_service_pb2.DESCRIPTOR) == service
    ours = described(model_config_pb2.DESCRIPTOR)
    for name, members in ours.items():
        for member, what in members.items():
            assert config[name][member] == what, f"{name}.{member}"
    assert {"inference.ModelConfig", "inference.ModelSequenceBatching", "inference.DataType"} <= set(ours)


def test_a_server_with_a_refused_model_is_not_ready(
    triton: TritonProcess, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    write_model(models, "letters", 1, characters_spec())
    bad = models / "bad" / "1" / "model.safetensors"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no model")
    server = start_server(models=models)
    assert triton.run("server.ready", server.address, "letters") == [True, False, True]
    shutil.rmtree(bad.parents[1])
    with operate(server) as operator:
        operator.reload()
    assert triton.run("server.ready", server.address, "letters") == [True, True, True]
