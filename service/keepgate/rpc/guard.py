"""Around every call of keepgate.v1 and inference: errors become statuses, and calls in flight are counted
for the drain.

Handlers are wrapped once, as they are added to the server: an interceptor of grpc.aio costs every call two
coroutines more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from keepgate.errors import CallsExhaustedError, DrainingError, RequestError
from keepgate.rpc.decode import tolerant, well_formed
from keepgate.rpc.status import abort, internal_status, to_status
from keepgate.telemetry.calls import KINDS, Calls, counted_answers, counted_requests

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class CallGuard:
    """Servicers raise domain errors; this maps them. They are coroutines that write to the context,
    never generators. limit: calls at once; more are refused before anything is done for them. calls: where
    what becomes of each is noted."""

    def __init__(self, limit: int, calls: Calls | None = None) -> None:
        self._limit = limit
        self._calls = Calls() if calls is None else calls
        self._tasks: set[asyncio.Task[Any]] = set()
        self._at_work: set[asyncio.Task[Any]] = set()  # those of them that do not tell their end yet
        self._cutting = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no call is in flight."""
        await self._idle.wait()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def cut(self) -> None:
        """End the calls in flight: the client gets a DrainingError. Those that tell their end go on."""
        self._cutting = True
        for task in self._at_work:
            task.cancel()

    def around(self, server: grpc.aio.Server) -> Guarded:
        """What services are added to in place of the server."""
        return Guarded(server, self.guarded)

    def guarded(self, handler: Any, method: str) -> Any:
        """The same handler, watched over."""
        kinds = {
            (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
            (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        }
        behaviour, build = kinds[handler.request_streaming, handler.response_streaming]
        noted = self._calls.method(method, KINDS[handler.request_streaming, handler.response_streaming])
        return build(
            self._calls.watched(self._wrap(behaviour, method, handler.response_streaming), noted),
            request_deserializer=counted_requests(tolerant(handler.request_deserializer, method), noted),
            response_serializer=counted_answers(handler.response_serializer, noted),
        )

    def _wrap(self, behaviour: Behaviour, method: str, streams: bool) -> Behaviour:
        async def call(request: Any, context: Any) -> Any:
            context = AnswerContext(context) if streams else context
            task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a call must run in a task")
            if len(self._tasks) >= self._limit:
                await abort(context, to_status(CallsExhaustedError(self._limit)))
            self._tasks.add(task)
            self._at_work.add(task)
            self._idle.clear()
            try:
                try:
                    return await behaviour(well_formed(request), context)
                finally:
                    self._at_work.discard(task)
            except RequestError as error:
                await abort(context, to_status(error))
            except (grpc.aio.AbortError, grpc.aio.InternalError):
                raise  # the end that was asked for; or the call is dead, and nothing reaches the client
            except asyncio.CancelledError:
                if not self._cutting:  # then it is the client that went away
                    raise
                await abort(context, to_status(DrainingError()))
            except Exception as error:  # a bug: the client gets a safe text, the log gets the rest
                await abort(context, internal_status(error, method))
            finally:
                self._tasks.discard(task)
                if not self._tasks:
                    self._idle.set()

        return call


class AnswerContext:
    """The context of a call that streams answers: no abort before the first of them is out.

    With it go the call's headers, and grpc.aio notes that they went only when it comes back from writing. A
    call that ended meanwhile would send them once more, and the client would not get its status.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._first: asyncio.Future[None] | None = None
        self.read = context.read
        self.write: Callable[[Any], Awaitable[None]] = self._write_first
        self.invocation_metadata = context.invocation_metadata

    async def _write_first(self, answer: Any) -> None:
        self.write = self._context.write  # from now on there is nothing in between
        self._first = asyncio.ensure_future(self._context.write(answer))
        self._first.add_done_callback(_heard)
        await asyncio.shield(self._first)

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        if self._first is not None:
            await asyncio.wait((self._first,))
        await self._context.abort(code, details, trailing_metadata)


def _heard(written: asyncio.Future[None]) -> None:
    """What failed has been heard of, though nobody may wait for it any more."""
    if not written.cancelled():
        written.exception()


class Guarded:
    """Stands for a server where generated code adds a service's handlers."""

    def __init__(self, server: grpc.aio.Server, guarded: Callable[[Any, str], Any]) -> None:
        self._server = server
        self._guarded = guarded

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """The same handlers come by name too."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        guarded = {name: self._guarded(each, f"/{service}/{name}") for name, each in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, guarded)
        self._server.add_generic_rpc_handlers((generic,))
