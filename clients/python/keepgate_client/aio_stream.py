"""Many sessions over one bidirectional call, for asyncio."""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc import StatusCode
from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans, errors
from keepgate_client._futures import Completion, complete
from keepgate_client._io import AsyncIO
from keepgate_client._multiplex import Multiplexer
from keepgate_client._session import SessionState
from keepgate_client.stream import CLOSE_SECONDS
from keepgate_client.types import Prediction

if TYPE_CHECKING:
    from keepgate_client.aio_session import AsyncSession


class AsyncStream:
    """`Stream` for asyncio: `step` returns a future at once; await it now or later."""

    def __init__(self, io: AsyncIO, plans: _plans.Plans, window: int) -> None:
        self._io = io
        self._plans = plans
        self._core: Multiplexer[Future[Prediction]] = Multiplexer(plans.retry, window)
        self._changed = asyncio.Event()
        self._closing = False
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.flush()
        await self.close()

    def step(
        self,
        session: AsyncSession,
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
    ) -> Future[Prediction]:
        """Queue a step and return its future; as `Stream.step`.

        first, second = stream.step(a, text="x"), stream.step(b, text="y")
        print((await first).text, (await second).text)
        """
        options = _convert.StepOptions(temperature, top_k, top_p, seed, top, logits, hidden, state)
        inputs = _convert.StepInputs.of(tokens, text, features)
        return self.submit(session._state, inputs, options, timeout)

    def submit(
        self,
        state: SessionState,
        inputs: _convert.StepInputs,
        options: _convert.StepOptions,
        timeout: float | None,
    ) -> Future[Prediction]:
        """What `step` does, with converted arguments."""
        if self._closing:
            raise errors.CallCancelledError("the stream is closed", code=StatusCode.CANCELLED)
        request = inputs.request(state.session_id, options)
        loop = asyncio.get_running_loop()
        future: Future[Prediction] = loop.create_future()
        seconds = self._plans.timeout if timeout is None else timeout
        self._core.submit(state, request, inputs.count, future, time.monotonic() + seconds)
        if self._reader is None:
            self._reader = loop.create_task(self._run())
        self._changed.set()
        return future

    async def flush(self) -> None:
        """Wait until every step queued so far is answered or has failed."""
        while not self._core.idle:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """End the stream. Steps without an answer raise CallCancelledError and may be applied or not."""
        self._closing = True
        self._changed.set()
        if self._reader is None:
            return
        # With nothing unanswered, wait for the server to let go of the sessions.
        await asyncio.wait([self._reader], timeout=CLOSE_SECONDS if self._core.idle else 0)
        self._reader.cancel()
        # Not `await self._reader`: in Python 3.11, an error thrown into a generator's aclose() leaves the
        # generator "already running" for good.
        await asyncio.wait([self._reader])
        if not self._reader.cancelled():
            self._reader.result()

    async def _run(self) -> None:
        """Open the call whenever there is something to send, and read it."""
        try:
            while await self._wait_for_work():
                error = await self._read_call()
                if not self._closing:
                    await self._back_off(error)
        finally:
            closed = errors.CallCancelledError("the stream was closed", code=StatusCode.CANCELLED)
            self._settle(self._core.fail_all(closed))

    async def _wait_for_work(self) -> bool:
        while self._core.idle and not self._closing:
            self._changed.clear()
            await self._changed.wait()
        return not self._closing

    async def _read_call(self) -> errors.KeepgateError:
        call = self._io.stream()
        writer = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                self._settle(self._core.receive(response, time.monotonic()))
            return errors.UnreachableError("the server ended the stream", code=StatusCode.UNAVAILABLE)
        except grpc.RpcError as failure:
            return self._io.error(failure)
        finally:
            writer.cancel()
            call.cancel()

    async def _write(self, call: Any) -> None:
        # A write to a call that is over fails; the reader learns why, so it is no error here.
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                self._changed.clear()
                while message := self._core.next_message(time.monotonic()):
                    await call.write(message)
                if self._closing:
                    await call.done_writing()
                    return
                await self._sleep(self._core.wait_seconds(time.monotonic()))
                self._settle(self._core.expire(time.monotonic()))

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until something changes, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _back_off(self, error: errors.KeepgateError) -> None:
        """Wait as the retry policy says after a broken call, or fail what waits for answers."""
        delay, completions = self._core.broken(error)
        self._settle(completions)
        resume_at = time.monotonic() + (delay or 0.0)
        while (left := resume_at - time.monotonic()) > 0 and not self._closing:
            self._changed.clear()
            await self._sleep(min(left, self._core.wait_seconds(time.monotonic()) or left))
            self._settle(self._core.expire(time.monotonic()))

    def _settle(self, completions: list[Completion[Future[Prediction]]]) -> None:
        complete(completions)
        self._changed.set()
