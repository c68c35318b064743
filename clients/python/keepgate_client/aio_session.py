"""A session of the asyncio client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc
from keepgate_protos.v1.sequences_pb2 import GenerateRequest
from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans, errors
from keepgate_client._generation import Generation, generate_request
from keepgate_client._io import AsyncIO
from keepgate_client._loops import AsyncLoops, Loop
from keepgate_client._opening import Opening
from keepgate_client._session import SessionBase, SessionState, closing
from keepgate_client.aio_stream import AsyncStream
from keepgate_client.types import DurabilityName, Prediction, Score, SessionInfo, Token


class AsyncSession(SessionBase):
    """`Session` for asyncio. One call at a time: a second one raises SessionBusyError.

    `close`, `resync`, `rewind` and the end of `async with` end a loop over `generate` or `stream` that was
    left early. Other calls do so only if nothing refers to its generator any more, as after `async for token
    in session.generate(...)`; else it may still be in use.
    """

    def __init__(self, io: AsyncIO, plans: _plans.Plans, state: SessionState) -> None:
        self._io = io
        self._plans = plans
        self._state = state
        self._loops = AsyncLoops()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with closing(error):
            await self.close()

    async def step(
        self,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        features: ArrayLike | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        top: int = 0,
        logits: bool = False,
        hidden: bool = False,
        state: bool = False,
        timeout: float | None = None,
    ) -> Prediction:
        """As `Session.step`."""
        options = _convert.StepOptions(temperature, top_k, top_p, seed, top, logits, hidden, state)
        inputs = _convert.StepInputs.of(tokens, text, features)
        request = inputs.request(self.session_id, options)
        await self._loops.left()
        return await self._io.run(self._plans.step(self._state, request, timeout))

    def generate(
        self,
        prompt: str | _convert.Tokens | None = None,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        stop_tokens: Iterable[int] = (),
        coalesce: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[Token]:
        """As `Session.generate`, for `async for`."""
        options = _convert.StepOptions(temperature, top_k, top_p, seed)
        request = generate_request(self._state, prompt, options, max_tokens, tuple(stop_tokens), coalesce)
        return self._loops.start(lambda loop: self._generated(loop, request, timeout))

    async def _generated(
        self, loop: Loop, request: GenerateRequest, timeout: float | None
    ) -> AsyncGenerator[Token, None]:
        await self._loops.left()
        with loop, self._state.used_by("generate"):
            generation = Generation(self._plans, self._state, request, timeout)
            while not generation.finished:
                wish = generation.call()
                call = self._io.generate(wish.request, timeout=wish.timeout)
                try:
                    async for response in call:
                        for token in generation.receive(response):
                            yield generation.hand_out(token)
                    generation.ended()
                    continue
                except grpc.RpcError as failure:
                    error = self._io.error(failure)
                except errors.UnreachableError as ended:
                    error = ended
                finally:
                    call.cancel()
                await asyncio.sleep(generation.failed(error))

    async def score(
        self,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        per_token: bool = False,
        timeout: float | None = None,
    ) -> Score:
        """As `Session.score`."""
        inputs = _convert.inputs_to_proto(tokens, text)
        await self._loops.left()
        return await self._io.run(self._plans.score(self._state, inputs, per_token, timeout))

    def stream(
        self,
        *,
        text: Iterable[str] | AsyncIterable[str] | None = None,
        tokens: Iterable[_convert.Tokens] | AsyncIterable[_convert.Tokens] | None = None,
        features: Iterable[ArrayLike] | AsyncIterable[ArrayLike] | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        top: int = 0,
        logits: bool = False,
        hidden: bool = False,
        state: bool = False,
        window: int = 1,
        timeout: float | None = None,
    ) -> AsyncIterator[Prediction]:
        """As `Session.stream`, for `async for`; the inputs may be asynchronous too."""
        options = _convert.StepOptions(temperature, top_k, top_p, seed, top, logits, hidden, state)
        items, convert = _convert.step_items(tokens, text, features)
        inputs = (convert(item) async for item in _convert.as_async(items))
        return self._loops.start(lambda loop: self._streamed(loop, inputs, options, window, timeout))

    async def _streamed(
        self,
        loop: Loop,
        items: AsyncIterator[_convert.StepInputs],
        options: _convert.StepOptions,
        window: int,
        timeout: float | None,
    ) -> AsyncGenerator[Prediction, None]:
        await self._loops.left()
        pending: deque[asyncio.Future[Prediction]] = deque()
        try:
            with loop:
                async with self._flushed(window) as stream:
                    async for item in items:
                        pending.append(stream.submit(self._state, item, options, timeout))
                        while pending and (len(pending) >= window or pending[0].done()):
                            yield await pending.popleft()
                    while pending:
                        yield await pending.popleft()
        finally:
            for future in pending:
                # Of what came after an error nobody asks; asyncio would complain in the log.
                future.add_done_callback(lambda done: done.cancelled() or done.exception())

    @asynccontextmanager
    async def _flushed(self, window: int) -> AsyncIterator[AsyncStream]:
        """A stream which, left early, waits for the steps sent ahead, so that the position counts them."""
        async with AsyncStream(self._io, self._plans, window) as stream:
            try:
                yield stream
            except GeneratorExit:
                await stream.flush()
                raise

    async def describe(self, *, timeout: float | None = None) -> SessionInfo:
        """As `Session.describe`."""
        return await self._io.run(self._plans.describe(self.session_id, timeout))

    async def resync(self, *, timeout: float | None = None) -> SessionInfo:
        """As `Session.resync`."""
        await self._loops.end()
        return await self._io.run(self._plans.resync(self._state, timeout))

    def fork(
        self,
        session_id: str = "",
        idle_ttl: float | timedelta | None = None,
        *,
        durability: DurabilityName | None = None,
        timeout: float | None = None,
    ) -> Opening:
        """As `Session.fork`; await it or use it in `async with`."""
        new = _plans.NewSession.of(session_id, idle_ttl, durability)
        return Opening(self._forked(new, timeout))

    async def _forked(self, new: _plans.NewSession, timeout: float | None) -> AsyncSession:
        await self._loops.left()
        twin = await self._io.run(self._plans.fork(self._state, new, timeout))
        return AsyncSession(self._io, self._plans, twin)

    async def rewind(self, position: int, *, timeout: float | None = None) -> SessionInfo:
        """As `Session.rewind`."""
        await self._loops.end()
        return await self._io.run(self._plans.rewind(self._state, position, timeout))

    async def export(self, *, timeout: float | None = None) -> bytes:
        """As `Session.export`."""
        await self._loops.left()
        return await self._io.run(self._plans.export(self._state, timeout))

    async def close(self, *, timeout: float | None = None) -> int:
        """As `Session.close`."""
        await self._loops.end()
        return await self._io.run(self._plans.close(self._state, timeout))
