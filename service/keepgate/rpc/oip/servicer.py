"""The servicer of inference.GRPCInferenceService. Domain errors are mapped by the interceptor."""

# ruff: noqa: N802 (the proto names the methods)

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from keepgate_protos.oip import grpc_service_pb2 as pb
from keepgate_protos.oip import grpc_service_pb2_grpc

from keepgate.errors import (
    InvalidArgumentError,
    ModelNotFoundError,
    RepositoryControlError,
    RepositoryError,
    UnsupportedError,
)
from keepgate.models.registry import folders_of
from keepgate.rpc.oip import describe
from keepgate.rpc.oip.infer import Inference, find_model
from keepgate.rpc.oip.stream import InferStream
from keepgate.sequences import Sequences
from keepgate.swap import Swap
from keepgate.threads import in_thread

READY = "READY"
UNAVAILABLE = "UNAVAILABLE"

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """The Open Inference Protocol. status: tells whether the server is ready."""

    def __init__(self, sequences: Sequences, swap: Swap, status: health_pb2_grpc.HealthServicer) -> None:
        self._sequences = sequences
        self._registry = sequences.registry
        self._settings = sequences.settings
        self._swap = swap
        self._status = status
        self._inference = Inference(sequences)

    # --- the server ---

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        health = await self._status.Check(health_pb2.HealthCheckRequest(), context)
        return pb.ServerReadyResponse(ready=health.status == health_pb2.HealthCheckResponse.SERVING)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return describe.server()

    async def TraceSetting(
        self, request: pb.TraceSettingRequest, context: Context
    ) -> pb.TraceSettingResponse:
        if request.settings:
            raise UnsupportedError("TraceSetting with settings", "traces are the server's operator's")
        return describe.trace_settings()

    async def LogSettings(self, request: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:
        if request.settings:
            raise UnsupportedError("LogSettings with settings", "logs are the server's operator's: log_level")
        return describe.log_settings(self._settings)

    # --- models ---

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            find_model(self._registry, request.name, request.version, "name")
        except ModelNotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        model = find_model(self._registry, request.name, request.version, "name")
        return describe.metadata(model, self._registry)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        model = find_model(self._registry, request.name, request.version, "name")
        return pb.ModelConfigResponse(config=describe.config(model, self._settings))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        if not request.name and request.version:
            raise InvalidArgumentError("version", repr(request.version[:100]), "none without a name")
        models = [
            model
            for model in self._registry
            if request.name in ("", model.key.name) and request.version in ("", model.key.version)
        ]
        if not models:
            find_model(self._registry, request.name, request.version, "name")
        return pb.ModelStatisticsResponse(
            model_stats=[
                describe.statistics(model, self._sequences.residents(model.key).meter) for model in models
            ]
        )

    # --- inference ---

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        return await self._inference.run(request)

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        await InferStream(self._sequences, self._inference, context).run()

    # --- the repository ---

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        listed = dict.fromkeys(await self._folders(), "is not loaded")
        for model in self._registry:
            retired = "is retired: it serves the sequences that it has"
            listed[model.key] = retired if self._registry.is_retired(model.key) else ""
        for (name, version), reason in sorted(
            listed.items(), key=lambda item: (item[0][0], len(item[0][1]), item)
        ):
            if not (reason and request.ready):
                state = UNAVAILABLE if reason else READY
                response.models.add(name=name, version=version, state=state, reason=reason)
        return response

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        self._check_control(request.model_name)
        if request.parameters:
            raise UnsupportedError("RepositoryModelLoad with parameters", "a model's file says all about it")
        folders = await self._folders()
        versions = [version for name, version in folders if name == request.model_name]
        if not versions:
            there = ", ".join(sorted({name for name, _ in folders}))
            raise ModelNotFoundError(request.model_name, "", there, "is not in the repository; there")
        for version in versions:
            await self._swap.load(request.model_name, version)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_control(request.model_name)
        keys = [model.key for model in self._registry if model.key.name == request.model_name]
        if not keys:
            find_model(self._registry, request.model_name, "")
        for key in keys:
            await self._swap.unload(key.name, key.version)
        return pb.RepositoryModelUnloadResponse()

    def _check_control(self, name: str) -> None:
        if not self._settings.oip_repository_control:
            raise RepositoryControlError
        if not name:
            raise InvalidArgumentError("model_name", "nothing", "the name of a model in the repository")

    async def _folders(self) -> list[tuple[str, str]]:
        """Names and versions in the repository; none if it cannot be read."""
        try:
            folders = await in_thread(lambda: folders_of(self._settings.models, []))
        except RepositoryError:
            return []
        return [(name, version) for name, version, _ in folders]

    # --- shared memory ---

    async def SystemSharedMemoryStatus(self, request: Any, context: Context) -> Any:
        _refuse_memory("system")

    async def SystemSharedMemoryRegister(self, request: Any, context: Context) -> Any:
        _refuse_memory("system")

    async def SystemSharedMemoryUnregister(self, request: Any, context: Context) -> Any:
        _refuse_memory("system")

    async def CudaSharedMemoryStatus(self, request: Any, context: Context) -> Any:
        _refuse_memory("CUDA")

    async def CudaSharedMemoryRegister(self, request: Any, context: Context) -> Any:
        _refuse_memory("CUDA")

    async def CudaSharedMemoryUnregister(self, request: Any, context: Context) -> Any:
        _refuse_memory("CUDA")


def _refuse_memory(kind: str) -> NoReturn:
    raise UnsupportedError(f"{kind} shared memory", "a step's tensors are small; send them in the message")
