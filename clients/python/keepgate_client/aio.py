"""The asyncio client: the names of `client`, awaited. What both do is in `_plans`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans, _rpc
from keepgate_client._access import TLS, Access
from keepgate_client._io import AsyncIO
from keepgate_client._opening import Opening
from keepgate_client._retry import RetryPolicy
from keepgate_client._session import SessionBase, SessionState
from keepgate_client._wishes import Plan
from keepgate_client.aio_group import AsyncGroup
from keepgate_client.aio_session import AsyncSession
from keepgate_client.aio_stream import AsyncStream
from keepgate_client.client import DEFAULT_TARGET, DEFAULT_TIMEOUT
from keepgate_client.types import DurabilityName, LayerState, ModelInfo, Score, SessionInfo


class AsyncClient:
    """`Client` for asyncio. Use it on the event loop on which it was made.

    async with AsyncClient("127.0.0.1:8001") as client:
        async with client.open("shakespeare-lstm") as session:
            print((await session.step(text="To be")).text)
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: TLS | bool = False,
        token: str | None = None,
        allow_plaintext_token: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        self.target = target
        self._plans = _plans.Plans(timeout, retry or RetryPolicy())
        access = Access(target, tls, credentials, token, allow_plaintext_token)
        arguments = _rpc.channel_options(options)
        self._channel = access.channel(grpc.aio.insecure_channel, grpc.aio.secure_channel, arguments)
        self._io = AsyncIO(self._channel, target, access.metadata)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Sessions stay open on the server until closed or expired."""
        await self._channel.close()

    def open(
        self,
        model: str,
        version: str = "",
        session_id: str = "",
        idle_ttl: float | timedelta | None = None,
        *,
        durability: DurabilityName | None = None,
        initial_state: Iterable[LayerState] = (),
        timeout: float | None = None,
    ) -> Opening:
        """As `Client.open`. Await it for a session, or use it in `async with`.

        session = await client.open("shakespeare-gru")
        async with client.open("shakespeare-gru") as session:
            ...
        """
        new = _plans.NewSession.of(session_id, idle_ttl, durability)
        return Opening(self._session(self._plans.open(model, version, new, initial_state, timeout)))

    def import_session(
        self,
        blob: bytes,
        model: str = "",
        version: str = "",
        session_id: str = "",
        idle_ttl: float | timedelta | None = None,
        *,
        durability: DurabilityName | None = None,
        timeout: float | None = None,
    ) -> Opening:
        """As `Client.import_session`; await it or use it in `async with`."""
        new = _plans.NewSession.of(session_id, idle_ttl, durability)
        return Opening(self._session(self._plans.import_session(blob, model, version, new, timeout)))

    def attach(self, session_id: str, *, timeout: float | None = None) -> Opening:
        """As `Client.attach`; await it or use it in `async with`."""
        return Opening(self._session(self._plans.attach(session_id, timeout)))

    async def _session(self, plan: Plan[SessionState]) -> AsyncSession:
        return AsyncSession(self._io, self._plans, await self._io.run(plan))

    def stream(self, *, window: int = 1) -> AsyncStream:
        """As `Client.stream`.

        async with client.stream() as stream:
            predictions = await asyncio.gather(*(stream.step(s, text="a") for s in sessions))
        """
        return AsyncStream(self._io, self._plans, window)

    def group(
        self,
        sessions: Iterable[SessionBase | str],
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seeds: ArrayLike = 0,
    ) -> AsyncGroup:
        """As `Client.group`.

        async with client.group(sessions) as group:
            frame = await group.step(tokens=tokens)
        """
        options = _convert.StepOptions(temperature, top_k, top_p)
        return AsyncGroup(self._io, self._plans, sessions, options, seeds)

    async def sessions(
        self, model: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[SessionInfo]:
        """As `Client.sessions`, for `async for`."""
        token = ""
        while True:
            plan = self._plans.sessions_page(model, page_size, token, timeout)
            page, token = await self._io.run(plan)
            for info in page:
                yield info
            if not token:
                return

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """As `Client.models`."""
        return await self._io.run(self._plans.models(timeout))

    async def model(self, name: str, version: str = "", *, timeout: float | None = None) -> ModelInfo:
        """As `Client.model`."""
        return await self._io.run(self._plans.model(name, version, timeout))

    async def score(
        self,
        model: str,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        version: str = "",
        per_token: bool = False,
        timeout: float | None = None,
    ) -> Score:
        """As `Client.score`."""
        inputs = _convert.inputs_to_proto(tokens, text)
        return await self._io.run(self._plans.score_model(model, version, inputs, per_token, timeout))
