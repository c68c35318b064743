"""A collector of OpenTelemetry spans: OTLP over gRPC, as the specification has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

DEADLINE = 60.0


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What was exported to it."""

    def __init__(self) -> None:
        self.address = ""
        self.resource: dict[str, Any] = {}
        self._spans: list[Span] = []
        self._came = threading.Condition()

    def Export(  # noqa: N802 - the proto names the method
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        with self._came:
            for resource in request.resource_spans:
                self.resource = plain(resource.resource.attributes)
                for scope in resource.scope_spans:
                    self._spans += scope.spans
            self._came.notify_all()
        return pb.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        with self._came:
            return list(self._spans)

    def wait(self, wanted: Callable[[Span], bool]) -> Span:
        """The first span that is wanted, now or later. Fails the test if none comes."""
        deadline = time.monotonic() + DEADLINE
        with self._came:
            while True:
                for span in self._spans:
                    if wanted(span):
                        return span
                left = deadline - time.monotonic()
                assert left > 0, f"waited in vain; there are {[span.name for span in self._spans]}"
                self._came.wait(left)


def plain(attributes: Any) -> dict[str, Any]:
    """Key and value of each."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens on this machine, till the end of the block."""
    servicer = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
