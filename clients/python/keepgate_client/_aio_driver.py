"""`_driver` for asyncio."""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self

import grpc
from grpc import StatusCode

from keepgate_client import errors
from keepgate_client._core import CLOSE_SECONDS, Core
from keepgate_client._driver import A
from keepgate_client._futures import Completion, complete
from keepgate_client._io import AsyncIO


class AsyncDriver(Generic[A]):
    """`Driver` for asyncio: futures of A of the running loop."""

    def __init__(self, io: AsyncIO, core: Core[Future[A]], open_call: Callable[..., Any], name: str) -> None:
        self._io = io
        self._driven = core
        self._open_call = open_call
        self._name = name
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

    async def flush(self) -> None:
        """Wait until every step queued so far is answered or has failed."""
        while not self._driven.idle:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """End the call. Steps without an answer raise CallCancelledError and may be applied or not."""
        self._closing = True
        self._changed.set()
        if self._reader is None:
            return
        # With nothing unanswered, wait for the server to let go of the sessions.
        await asyncio.wait([self._reader], timeout=CLOSE_SECONDS if self._driven.idle else 0)
        self._reader.cancel()
        # Not `await self._reader`: in Python 3.11, an error thrown into a generator's aclose() leaves the
        # generator "already running" for good.
        await asyncio.wait([self._reader])
        if not self._reader.cancelled():
            self._reader.result()

    def _queue(self, seconds: float, queue: Callable[[Future[A], float], None]) -> Future[A]:
        """A future, handed to `queue` with its deadline; `queue` tells the core, and may raise."""
        if self._closing:
            raise errors.CallCancelledError(f"the {self._name} is closed", code=StatusCode.CANCELLED)
        loop = asyncio.get_running_loop()
        future: Future[A] = loop.create_future()
        queue(future, time.monotonic() + seconds)
        if self._reader is None:
            self._reader = loop.create_task(self._run())
        self._changed.set()
        return future

    async def _run(self) -> None:
        """Open the call whenever there is something to send, and read it."""
        try:
            while await self._wait_for_work():
                error = await self._read_call()
                if not self._closing:
                    await self._back_off(error)
        finally:
            closed = errors.CallCancelledError(f"the {self._name} was closed", code=StatusCode.CANCELLED)
            self._settle(self._driven.fail_all(closed))

    async def _wait_for_work(self) -> bool:
        while self._driven.idle and not self._closing:
            self._changed.clear()
            await self._changed.wait()
        return not self._closing

    async def _read_call(self) -> errors.KeepgateError:
        call = self._open_call()
        writer = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                self._settle(self._driven.receive(response, time.monotonic()))
            return errors.UnreachableError(f"the server ended the {self._name}", code=StatusCode.UNAVAILABLE)
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
                while message := self._driven.next_message(time.monotonic()):
                    await call.write(message)
                if self._closing:
                    await call.done_writing()
                    return
                await self._sleep(self._driven.wait_seconds(time.monotonic()))
                self._settle(self._driven.expire(time.monotonic()))

    async def _sleep(self, seconds: float | None) -> None:
        """Wait until something changes, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _back_off(self, error: errors.KeepgateError) -> None:
        """Wait as the retry policy says after a broken call, or fail what waits for answers."""
        delay, completions = self._driven.broken(error)
        self._settle(completions)
        resume_at = time.monotonic() + (delay or 0.0)
        while (left := resume_at - time.monotonic()) > 0 and not self._closing:
            self._changed.clear()
            await self._sleep(min(left, self._driven.wait_seconds(time.monotonic()) or left))
            self._settle(self._driven.expire(time.monotonic()))

    def _settle(self, completions: list[Completion[Future[A]]]) -> None:
        complete(completions)
        self._changed.set()
