"""All input and output of the clients' single calls: carrying out plans, blocking or awaiting."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio

from keepgate_client import _rpc
from keepgate_client._access import Metadata
from keepgate_client._wishes import Plan, Running, Sleep, T, Wish
from keepgate_client.errors import KeepgateError


class IO:
    """Carries out plans on a channel, blocking."""

    def __init__(self, channel: grpc.Channel, target: str, metadata: Metadata | None = None) -> None:
        self._target = target
        self._calls = {m.path: m.of(channel.unary_unary, metadata) for m in _rpc.UNARY}
        self.generate = _rpc.GENERATE.of(channel.unary_stream, metadata)
        self.stream = _rpc.STREAM.of(channel.stream_stream, metadata)
        self.frames = _rpc.STREAM_FRAMES.of(channel.stream_stream, metadata)

    def run(self, plan: Plan[T]) -> T:
        """Do what the plan asks for until it returns."""
        with Running(plan) as running:
            while running.wish is not None:
                running.resume(self._grant(running.wish))
            return running.result

    def _grant(self, wish: Wish) -> Any:
        if isinstance(wish, Sleep):
            return time.sleep(wish.seconds)
        try:
            return self._calls[wish.method.path](wish.request, timeout=wish.timeout)
        except grpc.RpcError as failure:
            return self.error(failure)

    def error(self, failure: Any) -> KeepgateError:
        """The typed error of a failed call."""
        return _rpc.error_from_call(failure, self._target)


class AsyncIO:
    """Carries out plans on a channel, awaiting."""

    def __init__(self, channel: grpc.aio.Channel, target: str, metadata: Metadata | None = None) -> None:
        self._target = target
        self._calls = {m.path: m.of(channel.unary_unary, metadata) for m in _rpc.UNARY}
        self.generate = _rpc.GENERATE.of(channel.unary_stream, metadata)
        self.stream = _rpc.STREAM.of(channel.stream_stream, metadata)
        self.frames = _rpc.STREAM_FRAMES.of(channel.stream_stream, metadata)

    async def run(self, plan: Plan[T]) -> T:
        """Do what the plan asks for until it returns."""
        with Running(plan) as running:
            while running.wish is not None:
                running.resume(await self._grant(running.wish))
            return running.result

    async def _grant(self, wish: Wish) -> Any:
        if isinstance(wish, Sleep):
            return await asyncio.sleep(wish.seconds)
        try:
            return await self._calls[wish.method.path](wish.request, timeout=wish.timeout)
        except grpc.RpcError as failure:
            return self.error(failure)

    def error(self, failure: Any) -> KeepgateError:
        """The typed error of a failed call."""
        return _rpc.error_from_call(failure, self._target)
