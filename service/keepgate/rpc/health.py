"""grpc.health.v1: what is serving, for those who ask and those who watch.

A status is set at once, whoever watches it: a watcher that does not read what it is sent waits alone, and is
told the latest status when it reads again.
"""

# ruff: noqa: N802 (the proto names the methods)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer:
    """The statuses by name. "", the server as a whole, is NOT_SERVING until it is set.

    Used from one event loop.
    """

    def __init__(self) -> None:
        self._serving = {"": False}
        self._is_over = False
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def is_serving(self, name: str) -> bool:
        """Whether `name` is known and serving."""
        return self._serving.get(name, False)

    def set(self, name: str, is_serving: bool) -> None:
        """Set the status of `name`; after `enter_graceful_shutdown` nothing changes any more."""
        if not self._is_over:
            self._set(name, is_serving)

    def enter_graceful_shutdown(self) -> None:
        """Nothing is serving any more, from now on."""
        self._is_over = True
        for name in self._serving:
            self._set(name, False)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of a service; NOT_FOUND if nobody has set one."""
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of a service, now and after changes; SERVICE_UNKNOWN while nobody has set it."""
        name, changed = request.service, asyncio.Event()
        told: int | None = None
        watchers = self._watchers.setdefault(name, set())
        watchers.add(changed)
        try:
            while True:
                changed.clear()
                status = self._status(name)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await changed.wait()
        finally:
            watchers.discard(changed)
            if not watchers and self._watchers.get(name) is watchers:
                del self._watchers[name]

    def _set(self, name: str, is_serving: bool) -> None:
        self._serving[name] = is_serving
        for changed in self._watchers.get(name, ()):
            changed.set()

    def _status(self, name: str) -> int:
        known = health_pb2.HealthCheckResponse
        if name not in self._serving:
            return int(known.SERVICE_UNKNOWN)
        return int(known.SERVING if self._serving[name] else known.NOT_SERVING)
