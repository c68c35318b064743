"""What becomes of each call: counters by method and code, its request id, its log line and its span.

Used from the event loop; the metrics are read from a thread. A call costs about two microseconds of this.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from structlog.typing import EventDict, WrappedLogger

from keepgate.engine.meter import SECONDS_BOUNDS, Histogram

if TYPE_CHECKING:
    from keepgate.telemetry.traces import Trace, Traces

REQUEST_ID = "x-request-id"
"""In the metadata of a request, if the client names it, and in the trailing metadata of every answer."""
REQUEST_ID_PATTERN = re.compile(r"[!-~]([ -~]{0,126}[!-~])?")
"""Printable ASCII, and no blanks at the ends, which HTTP/2 would not carry."""
PREFIX_BYTES = 6
KINDS = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
"""As go-grpc-prometheus calls them, by request_streaming and response_streaming."""
FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
"""Codes that the operator should hear of; the others are the client's business."""

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]

_current: ContextVar[Call | None] = ContextVar("keepgate_call", default=None)

log = structlog.get_logger(__name__)


class Method:
    """What the calls of one method came to. received, sent: messages."""

    __slots__ = ("codes", "kind", "name", "path", "received", "seconds", "sent", "service", "started")

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.service, _, self.name = path.removeprefix("/").rpartition("/")
        self.kind = kind
        self.started = 0
        self.received = 0
        self.sent = 0
        self.codes: dict[grpc.StatusCode, int] = {}
        self.seconds = Histogram(SECONDS_BOUNDS)


class Call:
    """One call that is being served. code: what it ended with, as far as `abort` was told."""

    __slots__ = ("_calls", "_given", "_made", "began", "code", "method", "reason", "trace")

    def __init__(self, calls: Calls, method: Method, given: str) -> None:
        self._calls = calls
        self._given = given
        self._made = ""
        self.method = method
        self.began = time.perf_counter()
        self.code = grpc.StatusCode.OK
        self.reason = ""
        self.trace: Trace | None = None

    @property
    def request_id(self) -> str:
        """What the client calls the request, or else a name of the server's."""
        if not self._made:
            self._made = self._given or self._calls.new_id()
        return self._made

    def noted(self, status: status_pb2.Status, reason: str) -> status_pb2.Status:
        """An error of this call, or of a step in it: counted, traced, and told whose request it was."""
        self._calls.reasons[reason] += 1
        self.reason = reason
        status.details.add().Pack(error_details_pb2.RequestInfo(request_id=self.request_id))
        if self.trace is not None:
            self.trace.error(reason, status.message)
        return status


class Calls:
    """All calls of a server. reasons: how many errors were answered with each, in streams too."""

    def __init__(self, traces: Traces | None = None) -> None:
        self.methods: dict[str, Method] = {}
        self.reasons: Counter[str] = Counter()
        self._traces = traces
        self._prefix = secrets.token_hex(PREFIX_BYTES)
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        """A request id that no other server gives."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def method(self, path: str, kind: str) -> Method:
        """The counters of one method, which from now on are exported."""
        return self.methods.setdefault(path, Method(path, kind))

    def watched(self, behaviour: Behaviour, method: Method) -> Behaviour:
        """The same behaviour, and what becomes of each call is noted."""

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            metadata: Any = context.invocation_metadata() or ()
            call = Call(self, method, _given(metadata))
            method.started += 1
            _current.set(call)  # the call has a task, and so a context, of its own
            if self._traces is not None:
                call.trace = self._traces.begin(call, request, metadata, context.peer())
            answer = None
            try:
                context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
                answer = await behaviour(request, context)
            except asyncio.CancelledError:
                left = context.time_remaining()
                late = left is not None and left <= 0
                call.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                if call.code is grpc.StatusCode.OK:
                    call.code = _code_of(context)
                raise
            except grpc.aio.InternalError:  # the connection has gone
                call.code = grpc.StatusCode.CANCELLED
                raise
            except BaseException:
                call.code = grpc.StatusCode.UNKNOWN
                raise
            finally:
                self._end(call, context, answer)
            return answer

        return call

    def _end(self, call: Call, context: grpc.aio.ServicerContext[Any, Any], answer: Any) -> None:
        method, code = call.method, call.code
        seconds = time.perf_counter() - call.began
        method.codes[code] = method.codes.get(code, 0) + 1
        method.seconds.add(seconds)
        if call.trace is not None:
            call.trace.end(code, answer)
        if code is grpc.StatusCode.OK:
            if not _writes_debug():
                return
            write = log.debug
        else:
            write = log.warning if code in FAULTS else log.info
        fields = {"reason": call.reason} if call.reason else {}
        write(
            "call",
            method=method.path,
            code=code.name,
            milliseconds=round(seconds * 1e3, 3),
            peer=context.peer(),
            **fields,
        )


def current() -> Call | None:
    """The call in whose task or context this runs, if it is one."""
    return _current.get()


def counted_requests(deserialize: Callable[[bytes], Any], method: Method) -> Callable[[bytes], Any]:
    """The same, and each message is counted."""

    def read(data: bytes) -> Any:
        method.received += 1
        return deserialize(data)

    return read


def counted_answers(serialize: Callable[[Any], bytes] | None, method: Method) -> Callable[[Any], bytes]:
    """The same, and each message is counted. None: the messages are bytes."""

    def write(message: Any) -> bytes:
        method.sent += 1
        return serialize(message) if serialize is not None else message

    return write


def add_call(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor: lines that a call writes have its request id, and its trace's."""
    call = _current.get()
    if call is not None:
        event.setdefault("request_id", call.request_id)
        if call.trace is not None:
            event.setdefault("trace_id", call.trace.trace_id)
    return event


def _given(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and REQUEST_ID_PATTERN.fullmatch(value):
            return value
    return ""


def _code_of(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    number = context.code()
    return next(
        (code for code in grpc.StatusCode if number in (code, code.value[0])), grpc.StatusCode.UNKNOWN
    )


_logger = logging.getLogger(__name__)


def _writes_debug() -> bool:
    return _logger.isEnabledFor(logging.DEBUG)
