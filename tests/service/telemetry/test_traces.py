"""Spans, as a collector gets them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from keepgate_protos.v1 import sequences_pb2 as pb
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from support.collector import Collector, collector, plain
from support.commands import keepgate
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect, failure, step

Start = Callable[..., ServerProcess]
SERVICE = "keepgate.v1.Sequences"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
"""Milliseconds between exports; the SDK's own default is five seconds."""


@pytest.fixture
def spans() -> Iterator[Collector]:
    with collector() as listening:
        yield listening


@pytest.fixture
def traced(repository: Path, tmp_path: Path, spans: Collector) -> Iterator[ServerProcess]:
    settings = {"models": repository, "traces": f"http://{spans.address}", "log_level": "debug"}
    process = ServerProcess(tmp_path / "traced", settings, SOON).wait_ready()
    yield process
    if process.process.poll() is None:
        process.kill()


@pytest.fixture
def traced_wire(traced: ServerProcess) -> Iterator[Wire]:
    with connect(traced.address) as connection:
        yield connection


def of(method: str) -> Callable[[Span], bool]:
    return lambda span: span.name == f"{SERVICE}/{method}"


def test_a_call_is_a_span(traced: ServerProcess, traced_wire: Wire, spans: Collector) -> None:
    session = traced_wire.open(version="1")
    traced_wire.sequences.Step(step(session, "ab"), metadata=(("x-request-id", "mine"),), timeout=DEADLINE)
    opened, stepped = spans.wait(of("Open")), spans.wait(of("Step"))
    attributes = plain(stepped.attributes)
    assert attributes.pop("network.peer.address").startswith("ipv4:127.0.0.1:")
    assert attributes == {
        "rpc.system": "grpc",
        "rpc.system.name": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": f"{SERVICE}/Step",
        "rpc.response.status_code": "OK",
        "keepgate.request_id": "mine",
        "keepgate.session_id": session,
        "keepgate.model": "letters",
        "keepgate.version": "1",
        "keepgate.position": 2,
    }
    assert stepped.kind == Span.SPAN_KIND_SERVER
    assert stepped.status.code == Status.STATUS_CODE_UNSET
    assert stepped.start_time_unix_nano < stepped.end_time_unix_nano
    assert not stepped.parent_span_id
    assert stepped.trace_id != opened.trace_id
    assert plain(opened.attributes)["keepgate.session_id"] == session
    assert spans.resource["service.name"] == "keepgate"
    line = next(line for line in traced.log().splitlines() if '"mine"' in line)
    assert json.loads(line)["trace_id"] == stepped.trace_id.hex()


def test_a_trace_goes_on(traced_wire: Wire, spans: Collector) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    metadata = (("traceparent", f"00-{trace}-{parent}-01"), ("tracestate", "vendor=1"))
    traced_wire.sequences.List(pb.ListRequest(), metadata=metadata, timeout=DEADLINE)
    span = spans.wait(of("List"))
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
    assert span.trace_state == "vendor=1"


def test_a_trace_that_is_not_sampled_is_not_sent(traced_wire: Wire, spans: Collector) -> None:
    metadata = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),)
    traced_wire.sequences.List(pb.ListRequest(), metadata=metadata, timeout=DEADLINE)
    traced_wire.open()
    spans.wait(of("Open"))
    assert not [span for span in spans.spans if of("List")(span)]


@pytest.mark.parametrize("broken", ["", "00-zz-zz-01", "x" * 1000])
def test_a_broken_parent_is_none(traced_wire: Wire, spans: Collector, broken: str) -> None:
    traced_wire.sequences.List(pb.ListRequest(), metadata=(("traceparent", broken),), timeout=DEADLINE)
    assert not spans.wait(of("List")).parent_span_id


def test_errors(traced_wire: Wire, spans: Collector) -> None:
    refused = failure(lambda: traced_wire.step("nobody", "a"))
    span = spans.wait(of("Step"))
    attributes = plain(span.attributes)
    assert attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert attributes["keepgate.request_id"] == refused.request_id
    assert span.status.code == Status.STATUS_CODE_UNSET  # the client's business, by the conventions
    (event,) = span.events
    assert plain(event.attributes) == {"error.type": "SESSION_NOT_FOUND", "error.message": refused.message}


def test_a_stream_is_one_span_with_its_errors(traced_wire: Wire, spans: Collector) -> None:
    session = traced_wire.open()
    traced_wire.stream(
        [step(session, "a", 0), step("nobody", "a"), step(session, "a", 9), step(session, "a", 1)]
    )
    span = spans.wait(of("Stream"))
    assert plain(span.attributes)["rpc.response.status_code"] == "OK"
    reasons = sorted(plain(event.attributes)["error.type"] for event in span.events)
    assert reasons == ["POSITION_MISMATCH", "SESSION_NOT_FOUND"]


def test_the_end_of_a_server_is_told(traced: ServerProcess, traced_wire: Wire, spans: Collector) -> None:
    session = traced_wire.open()
    call = traced_wire.sequences.Stream(iter_forever(session), timeout=DEADLINE)
    next(call)
    traced.terminate()
    with pytest.raises(grpc.RpcError):
        for _ in call:
            pass
    assert traced.wait() == 0
    span = next(filter(of("Stream"), spans.spans))  # sent before the exit
    assert plain(span.attributes)["rpc.response.status_code"] == "UNAVAILABLE"
    assert plain(span.attributes)["error.type"] == "UNAVAILABLE"
    assert span.status.code == Status.STATUS_CODE_ERROR


def iter_forever(session: str) -> Iterator[pb.StreamRequest]:
    while True:
        yield pb.StreamRequest(step=step(session, "a"))


def test_a_collector_that_is_not_there_costs_no_call(start_server: Start) -> None:
    server = start_server(traces="http://127.0.0.1:1")
    with connect(server.address) as wire:
        session = wire.open()
        for position in range(20):
            assert wire.step(session, "a", position).position == position + 1
    assert server.stop() == 0


@pytest.mark.parametrize(
    "endpoint", ["collector", "ftp://collector:1", "http://", "http://x:99999", "http://x"]
)
def test_an_endpoint_that_is_none(repository: Path, endpoint: str) -> None:
    refused = keepgate("serve", "--models", str(repository), "--port", "0", "--traces", endpoint, code=1)
    assert f"traces: got '{endpoint}', expected http://HOST:PORT" in refused.stderr


def test_without_the_extra(repository: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'opentelemetry'\", name='opentelemetry')\n"
    )
    arguments = ("serve", "--models", str(repository), "--port", "0", "--traces", "http://127.0.0.1:4317")
    refused = keepgate(*arguments, code=1, PYTHONPATH=str(tmp_path)).stderr
    assert "traces: got 'http://127.0.0.1:4317', which needs OpenTelemetry: install keepgate[otel]" in refused
