"""The servicer of keepgate.v1.Admin. Domain errors are mapped by the interceptor."""

# ruff: noqa: N802 (the proto names the methods)

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from keepgate_protos.v1 import admin_pb2 as pb
from keepgate_protos.v1 import admin_pb2_grpc

from keepgate.rpc.describe import describe
from keepgate.rpc.guard import CallGuard
from keepgate.sequences import Sequences
from keepgate.sessions.session import ModelKey
from keepgate.swap import Swap

Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """guard: of the calls that a drain finishes. drain: begins it; more than once is as once."""

    def __init__(self, sequences: Sequences, swap: Swap, guard: CallGuard, drain: Callable[[], None]) -> None:
        self._sequences = sequences
        self._swap = swap
        self._guard = guard
        self._drain = drain

    async def Reload(self, request: pb.ReloadRequest, context: Context) -> pb.ReloadResponse:
        changes = await self._swap.reload()
        return pb.ReloadResponse(
            loaded=self._versions(changes.loaded),
            retired=self._versions(changes.retired),
            unloaded=self._versions(changes.unloaded),
            refused=[pb.RefusedFile(path=str(error.path), fault=error.fault) for error in changes.refused],
        )

    async def Load(self, request: pb.LoadRequest, context: Context) -> pb.LoadResponse:
        model = await self._swap.load(request.name, request.version)
        return pb.LoadResponse(model=describe(model, self._sequences))

    async def Unload(self, request: pb.UnloadRequest, context: Context) -> pb.UnloadResponse:
        unloaded = await self._swap.unload(request.name, request.version)
        sessions = self._sequences.table.count(ModelKey(request.name, request.version))
        return pb.UnloadResponse(sessions=sessions, unloaded=unloaded)

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        answer = pb.DrainResponse(
            calls=self._guard.in_flight,
            sessions=len(self._sequences.table),
            seconds=self._sequences.settings.drain_seconds,
        )
        self._drain()
        return answer

    def _versions(self, keys: Iterable[ModelKey]) -> list[pb.ModelVersion]:
        count = self._sequences.table.count
        return [pb.ModelVersion(name=key.name, version=key.version, sessions=count(key)) for key in keys]
