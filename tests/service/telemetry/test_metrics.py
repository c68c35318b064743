"""What a server counts, as a scraper reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from keepgate_protos.v1 import sequences_pb2 as pb
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.metrics import Metrics, get
from support.operator import wait_for
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect, failure, step

ROOT = Path(__file__).parents[3]
Start = Callable[..., ServerProcess]
LETTERS = {"model": "letters", "version": "1"}


@pytest.fixture
def busy(start_server: Start, tmp_path: Path) -> ServerProcess:
    """A server with a store and two slots."""
    return start_server(slots=2, store=f"sqlite:{tmp_path / 'sessions.db'}")


@pytest.fixture
def busy_wire(busy: ServerProcess) -> Iterator[Wire]:
    with connect(busy.address) as connection:
        yield connection


def exercise(wire: Wire) -> None:
    """A bit of everything."""
    session = wire.open(version="1", durability=pb.DURABILITY_ALWAYS)
    wire.step(session, "ab")
    wire.generate(session, "c", max_tokens=3)
    wire.stream([step(session, "a"), step("nobody", "a")])
    failure(lambda: wire.step("nobody", "a"))
    wire.close(session)


def test_calls_by_method_and_code(busy: ServerProcess, busy_wire: Wire) -> None:
    exercise(busy_wire)
    now = Metrics(busy)
    of_step = {"grpc_service": "keepgate.v1.Sequences", "grpc_method": "Step", "grpc_type": "unary"}
    assert now("grpc_server_started_total", **of_step) == 2
    assert now("grpc_server_handled_total", grpc_code="OK", **of_step) == 1
    assert now("grpc_server_handled_total", grpc_code="NotFound", **of_step) == 1
    assert now("grpc_server_msg_received_total", **of_step) == 2
    assert now("grpc_server_msg_sent_total", **of_step) == 1
    assert now("grpc_server_handling_seconds_count", **of_step) == 2
    assert now("grpc_server_handling_seconds_bucket", le="+Inf", **of_step) == 2
    assert now("grpc_server_handling_seconds_sum", **of_step) > 0
    of_stream = {"grpc_method": "Stream", "grpc_type": "bidi_stream"}
    assert now("grpc_server_handled_total", grpc_code="OK", **of_stream) == 1
    assert now("grpc_server_msg_received_total", **of_stream) == 2
    assert now("grpc_server_msg_sent_total", **of_stream) == 2
    of_generate = {"grpc_method": "Generate", "grpc_type": "server_stream"}
    assert now("grpc_server_msg_received_total", **of_generate) == 1
    assert now("grpc_server_msg_sent_total", **of_generate) == 3
    # One in a status, one in a stream.
    assert now("keepgate_errors_total", reason="SESSION_NOT_FOUND") == 2
    assert now("keepgate_calls_in_flight") == 0


def test_a_call_that_its_client_ends_is_counted(busy: ServerProcess, busy_wire: Wire) -> None:
    session = busy_wire.open()
    requests = iter(lambda: step(session, "a"), None)
    answers = busy_wire.sequences.Stream(
        (pb.StreamRequest(step=request) for request in requests), timeout=DEADLINE
    )
    next(answers)
    assert Metrics(busy)("keepgate_calls_in_flight") == 1
    answers.cancel()
    wait_for(lambda: Metrics(busy)("keepgate_calls_in_flight") == 0)
    assert Metrics(busy)("grpc_server_handled_total", grpc_code="Canceled", grpc_method="Stream") == 1


def test_work_by_model(busy: ServerProcess, busy_wire: Wire) -> None:
    exercise(busy_wire)
    now = Metrics(busy)
    # Step and Stream one request each; Generate its prompt and the tokens that it feeds back.
    fed = now("nv_inference_request_success", **LETTERS) - 2
    assert fed >= 3
    assert now("nv_inference_count", **LETTERS) == 1 + 1 + 1 + fed
    assert now("nv_inference_exec_count", **LETTERS) == 2 + fed
    assert now("keepgate_batch_size_bucket", le="1", **LETTERS) == 2 + fed
    assert now("keepgate_batch_size_sum", **LETTERS) == 2 + fed
    assert now("keepgate_step_seconds_count", **LETTERS) == 2 + fed
    assert now("nv_inference_request_failure", **LETTERS) == 0
    assert now("nv_inference_pending_request_count") == now("keepgate_pending_steps") == 0
    whole = now("nv_inference_request_duration_us", **LETTERS)
    waited = now("nv_inference_queue_duration_us", **LETTERS)
    computed = now("nv_inference_compute_infer_duration_us", **LETTERS)
    assert whole + 2 >= waited + computed > 0  # each is rounded down
    assert computed >= 1e6 * now("keepgate_compute_seconds_total", **LETTERS) - 1
    assert now("nv_inference_count", model="letters", version="2") == 0


def residency(now: Metrics) -> tuple[float, ...]:
    return tuple(
        now("keepgate_sessions", model="letters", residency=where)
        for where in ("resident", "memory", "store")
    )


def test_sessions_by_residency(busy: ServerProcess, busy_wire: Wire) -> None:
    sessions = [busy_wire.open(version="1") for _ in range(3)]
    assert residency(Metrics(busy)) == (0, 3, 0)  # a state is made when it is needed
    for session in sessions:
        busy_wire.step(session, "a")
    wait_for(lambda: residency(Metrics(busy)) == (2, 0, 1))
    now = Metrics(busy)
    assert now("keepgate_slots", state="used", **LETTERS) == 2
    assert now("keepgate_slots", state="capacity", **LETTERS) == 2
    assert now("keepgate_evictions_total", **LETTERS) == 1
    assert now("keepgate_page_ins_total", **LETTERS) == 0
    busy_wire.step(sessions[0], "a")
    wait_for(lambda: residency(Metrics(busy)) == (2, 0, 1))
    assert Metrics(busy)("keepgate_page_ins_total", **LETTERS) == 1
    busy_wire.rewind(sessions[1], 0)  # it is the one in the store, and comes back to memory at least
    wait_for(lambda: residency(Metrics(busy)) == (2, 0, 1))
    for session in sessions:
        busy_wire.close(session)
    assert residency(Metrics(busy)) == (0, 0, 0)
    now = Metrics(busy)
    assert now("keepgate_slots", state="used", **LETTERS) == 0
    assert now("keepgate_sessions_opened_total", **LETTERS) == 3
    assert now("keepgate_sessions_ended_total", reason="closed", **LETTERS) == 3


def test_how_sessions_end(busy: ServerProcess, busy_wire: Wire) -> None:
    ttl = Duration(nanos=50_000_000)
    busy_wire.open(version="1", idle_ttl=ttl)
    stepped = busy_wire.open(version="1", idle_ttl=ttl)
    busy_wire.fork(stepped)
    wait_for(lambda: Metrics(busy)("keepgate_sessions_ended_total", reason="expired") == 3)
    assert Metrics(busy)("keepgate_sessions_opened_total", **LETTERS) == 3
    assert residency(Metrics(busy)) == (0, 0, 0)


def test_the_store(start_server: Start, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:{tmp_path / 'sessions.db'}", "durability": "always"}
    first = start_server(**settings)
    with connect(first.address) as wire:
        session = wire.open(version="1")
        wire.step(session, "a")
        now = Metrics(first)
        assert now("keepgate_durable_commits_total") == 2
        assert now("keepgate_commit_seconds_count", store="durable") == 2
        assert now("keepgate_commit_seconds_sum", store="durable") > 0
        assert now("keepgate_store_failing") == 0
    assert first.stop() == 0
    second = start_server(**settings)
    now = Metrics(second)
    assert now("keepgate_sessions_adopted_total", **LETTERS) == 1
    assert now("keepgate_sessions_opened_total", **LETTERS) == 0
    assert residency(now) == (0, 0, 1)
    with connect(second.address) as wire:
        wire.step(session, "b", 1)
        assert residency(Metrics(second)) == (1, 0, 0)
        wire.close(session)
        assert residency(Metrics(second)) == (0, 0, 0)


def test_what_is_loaded(server: ServerProcess) -> None:
    now = Metrics(server)
    infos = [dict(labels) for labels in now.values["keepgate_model_info"]]
    keys = sorted((info["model"], info["version"]) for info in infos)
    assert keys == [("ids", "1"), ("letters", "1"), ("letters", "2"), ("vectors", "1")]
    assert {info["precision"] for info in infos} == {"fp32"}
    assert now("keepgate_model_weight_bytes", **LETTERS) > 0
    (build,) = (dict(labels) for labels in now.values["keepgate_build_info"])
    assert build.keys() == {"version", "kernel", "python", "grpcio"}


def test_openmetrics(server: ServerProcess) -> None:
    reply = get(server, "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert reply.content_type.startswith("application/openmetrics-text")
    parsed = text_string_to_metric_families(reply.body)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["grpc_server_handled"].type == "counter"
    assert families["keepgate_step_seconds"].type == "histogram"
    assert get(server, "/metrics").content_type.startswith("text/plain")


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "text/plain;version=1.x"])
def test_a_version_that_is_none_is_answered_in_plain_text(server: ServerProcess, accept: str) -> None:
    reply = get(server, "/metrics", Accept=accept)
    assert reply.status == 200
    assert reply.content_type == get(server, "/metrics").content_type


def test_the_document_names_every_metric(busy: ServerProcess, busy_wire: Wire) -> None:
    exercise(busy_wire)
    now = Metrics(busy)
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| .+ \|$", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE
    )
    assert sorted(name for name, _ in rows) == sorted(now.names)
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", now.text, re.MULTILINE))
    for name, kind in rows:
        if not name.startswith("nv_"):  # Triton's counters cannot have the type
            assert kinds[name] == kind, name


def expressions() -> dict[str, list[str]]:
    """PromQL by the file that it is in."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "keepgate.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = re.findall(r"^ +expr: (.+)$", (ROOT / "deploy" / "alerts.yml").read_text(), re.MULTILINE)
    return {"dashboard": panels, "alerts": rules}


@pytest.fixture(scope="module")
def exported(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metrics]:
    """The samples of a server that has done something."""
    folder = tmp_path_factory.mktemp("exported")
    process = ServerProcess(folder, {"models": repository, "store": f"sqlite:{folder / 'db'}"}).wait_ready()
    with connect(process.address) as wire:
        exercise(wire)
    yield Metrics(process)
    assert process.stop() == 0


@pytest.mark.parametrize("where", ["dashboard", "alerts"])
def test_dashboard_and_alerts_ask_for_what_there_is(where: str, exported: Metrics) -> None:
    found = expressions()[where]
    assert len(found) > 5
    prefixes = r"(?:grpc_server|nv_inference|keepgate|process|python)_\w+"
    for expression in found:
        names = set(re.findall(rf"\b{prefixes}|\b[a-z_]\w*(?=\s*[{{\[])", expression))
        assert names, expression
        for name in names - {"up"}:
            assert name in exported.values, expression
        for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)(?:=|!)", matchers):
                if label in ("instance", "job"):  # Prometheus adds these
                    continue
                labels = {key for had in exported.values[name] for key, _ in had}
                assert label in labels, expression
        by = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        labels = {key for name in names for had in exported.values.get(name, ()) for key, _ in had}
        assert by - {"instance"} <= labels, expression


def test_the_alerts_are_those_that_prometheus_loads() -> None:
    text = (ROOT / "deploy" / "prometheus.yml").read_text()
    assert re.search(r"^rule_files:\n  - alerts\.yml$", text, re.MULTILINE)
    assert "127.0.0.1:8002" in text
