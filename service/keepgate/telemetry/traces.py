"""A span of each call, sent to an OpenTelemetry collector. Needs the extra `otel`.

Names and attributes: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/, with `rpc.system` and
`rpc.service` of its earlier versions too. Sampling and limits: the OTEL_* variables of the SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from keepgate import __version__
from keepgate.errors import ConfigError
from keepgate.threads import in_thread

if TYPE_CHECKING:
    from keepgate.sequences import Sequences
    from keepgate.telemetry.calls import Call

CLOSE_SECONDS = 3.0
"""What the collector gets to take the last spans."""
MAX_EVENTS = 128
"""Errors of one stream that its span has."""
ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that make a server's span one of an error, by the conventions."""
PARENT = ("traceparent", "tracestate")

log = structlog.get_logger(__name__)


class Trace:
    """The span of one call."""

    __slots__ = ("_errors", "_span", "trace_id")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._errors = 0
        self.trace_id = format_trace_id(span.get_span_context().trace_id)

    def error(self, reason: str, message: str) -> None:
        """An error of the call, or of a step in it."""
        self._errors += 1
        if self._errors <= MAX_EVENTS:
            self._span.add_event("error", {"error.type": reason, "error.message": message})

    def end(self, code: grpc.StatusCode, answer: Any) -> None:
        """The call ended with a code, and with an answer if it had one."""
        span = self._span
        if span.is_recording():
            span.set_attributes(_position(answer))
            span.set_attribute("rpc.response.status_code", code.name)
            if code in ERRORS:
                span.set_attribute("error.type", code.name)
                span.set_status(Status(StatusCode.ERROR))
        span.end()


class Traces:
    """endpoint: http://HOST:PORT, https:// for TLS, or HOST:PORT. Raises ConfigError if it is none."""

    def __init__(self, endpoint: str) -> None:
        url = endpoint if "://" in endpoint else f"http://{endpoint}"
        self.sequences: Sequences | None = None
        try:
            parts = urlsplit(url)
            is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port is not None
        except ValueError:
            is_one = False
        if not is_one:
            raise ConfigError(
                f"traces: got {endpoint!r}, expected http://HOST:PORT, https://HOST:PORT or nothing"
            )
        resource = Resource.create({SERVICE_NAME: "keepgate", SERVICE_VERSION: __version__})
        exporter = OTLPSpanExporter(endpoint=url, insecure=parts.scheme == "http", timeout=CLOSE_SECONDS)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("keepgate", __version__)
        self._parents = TraceContextTextMapPropagator()

    def begin(
        self, call: Call, request: Any, metadata: Sequence[tuple[str, str | bytes]], peer: str
    ) -> Trace:
        """The span of a call, below the one that its metadata names."""
        carrier = {key: value for key, value in metadata if key in PARENT and isinstance(value, str)}
        parent = self._parents.extract(carrier) if carrier else None
        method = call.method
        name = method.path.removeprefix("/")
        span = self._tracer.start_span(
            name,
            context=parent or Context(),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.system.name": "grpc",
                "rpc.service": method.service,
                "rpc.method": name,
            },
        )
        if span.is_recording():
            span.set_attribute("keepgate.request_id", call.request_id)
            span.set_attribute("network.peer.address", peer)
            span.set_attributes(self._facts(request))
        return Trace(span)

    async def close(self) -> None:
        """Send what is left, if the collector takes it soon."""
        try:
            await asyncio.wait_for(in_thread(self._provider.shutdown), CLOSE_SECONDS)
        except TimeoutError:
            log.warning("the last spans were not sent", seconds=CLOSE_SECONDS)

    def _facts(self, request: Any) -> dict[str, str]:
        """Model and session of a request, as far as it has them."""
        session_id, model, version = (_text(request, name) for name in ("session_id", "model", "version"))
        if session_id and not model and self.sequences is not None:
            session = self.sequences.table.find(session_id)
            model, version = session.model if session is not None else ("", "")
        facts = {"keepgate.session_id": session_id, "keepgate.model": model, "keepgate.version": version}
        return {name: value for name, value in facts.items() if value}


def _text(message: Any, name: str) -> str:
    value = getattr(message, name, "")
    return value if isinstance(value, str) else ""


def _position(answer: Any) -> dict[str, str | int]:
    """The session's position after the call, if the answer tells it."""
    told = getattr(answer, "session", answer)
    position = getattr(told, "position", None)
    facts: dict[str, str | int] = {} if position is None else {"keepgate.position": int(position)}
    if session_id := _text(told, "session_id"):
        facts["keepgate.session_id"] = session_id
    return facts
