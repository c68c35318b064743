"""Models as clients of Triton see them: tensors, configuration, statistics."""

from __future__ import annotations

from keepgate_protos.oip import grpc_service_pb2 as pb
from keepgate_protos.oip import model_config_pb2

from keepgate import __version__
from keepgate.config import Settings
from keepgate.engine.meter import Meter
from keepgate.models.registry import FILE_NAME, LoadedModel, Registry
from keepgate.rpc.oip.tensors import Tensor, input_of, outputs_of

NAME = "keepgate"
EXTENSIONS = (
    "sequence",
    "sequence(string_id)",
    "model_repository",
    "model_configuration",
    "schedule_policy",
    "statistics",
    "parameters",
)
"""Triton's names of the extensions that are served."""
NANOS = 1e9
MILLIS = 1e3
MICROS = 1e6
MAX_INT32 = (1 << 31) - 1
DATA_TYPES = {"INT32": model_config_pb2.TYPE_INT32, "FP32": model_config_pb2.TYPE_FP32}


def server() -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name=NAME, version=__version__, extensions=EXTENSIONS)


def metadata(model: LoadedModel, registry: Registry) -> pb.ModelMetadataResponse:
    """Of one model; versions are those that take new sequences."""
    versions = [
        each.key.version
        for each in registry
        if each.key.name == model.key.name and not registry.is_retired(each.key)
    ]
    return pb.ModelMetadataResponse(
        name=model.key.name,
        versions=versions,
        platform=NAME,
        inputs=[_tensor(input_of(model))],
        outputs=[_tensor(tensor) for tensor in outputs_of(model)],
    )


def config(model: LoadedModel, settings: Settings) -> model_config_pb2.ModelConfig:
    """How a model is served."""
    message = model_config_pb2.ModelConfig(
        name=model.key.name,
        platform=NAME,
        backend=NAME,
        max_batch_size=0,
        input=[_input(input_of(model))],
        output=[_output(tensor) for tensor in outputs_of(model)],
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                name=model.key.name, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1
            )
        ],
        default_model_filename=FILE_NAME,
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=False),
    )
    message.version_policy.all.SetInParent()
    batching = message.sequence_batching
    batching.max_sequence_idle_microseconds = int(settings.idle_ttl_seconds * MICROS)
    batching.oldest.max_candidate_sequences = min(settings.max_sessions, MAX_INT32)
    batching.oldest.preserve_ordering = True
    for name, value in (
        ("precision", model.network.precision),
        ("fingerprint", model.network.fingerprint),
        ("cells", ",".join(layer.cell.kind.value for layer in model.spec.layers)),
    ):
        message.parameters[name].string_value = value
    return message


def statistics(model: LoadedModel, meter: Meter) -> pb.ModelStatistics:
    """What a model has done since it was loaded. Replays of a session's history count as nothing."""
    computed = pb.StatisticDuration(count=meter.succeeded)
    stats = pb.InferStatistics(
        success=pb.StatisticDuration(count=meter.succeeded, ns=round(meter.answered.total * NANOS)),
        fail=pb.StatisticDuration(count=meter.failed),
        queue=pb.StatisticDuration(count=meter.succeeded, ns=round(meter.queued * NANOS)),
        compute_input=computed,
        compute_infer=pb.StatisticDuration(count=meter.succeeded, ns=round(meter.computing * NANOS)),
        compute_output=computed,
        cache_hit=pb.StatisticDuration(),
        cache_miss=pb.StatisticDuration(),
    )
    memory = pb.MemoryUsage(type="CPU", id=0, byte_size=model.network.weight_bytes)
    return pb.ModelStatistics(
        name=model.key.name,
        version=model.key.version,
        last_inference=int(meter.last * MILLIS),
        inference_count=meter.succeeded,
        execution_count=meter.batches.count,
        inference_stats=stats,
        memory_usage=[memory],
    )


def log_settings(settings: Settings) -> pb.LogSettingsResponse:
    """What is logged, in the words of Triton."""
    levels = ("debug", "info", "warning", "error")
    least = levels.index(settings.log_level)
    response = pb.LogSettingsResponse()
    for level in levels[1:]:
        response.settings[f"log_{level}"].bool_param = levels.index(level) >= least
    response.settings["log_verbose_level"].uint32_param = int(least == 0)
    response.settings["log_format"].string_param = settings.log_format
    response.settings["log_file"].string_param = ""
    return response


def trace_settings() -> pb.TraceSettingResponse:
    """Nothing is traced by this protocol."""
    response = pb.TraceSettingResponse()
    response.settings["trace_level"].value.append("OFF")
    return response


def _tensor(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _input(tensor: Tensor) -> model_config_pb2.ModelInput:
    return model_config_pb2.ModelInput(
        name=tensor.name, data_type=DATA_TYPES[tensor.datatype], dims=tensor.shape
    )


def _output(tensor: Tensor) -> model_config_pb2.ModelOutput:
    return model_config_pb2.ModelOutput(
        name=tensor.name, data_type=DATA_TYPES[tensor.datatype], dims=tensor.shape
    )
