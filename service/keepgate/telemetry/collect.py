"""The server's metrics, read when they are asked for from the counters that its parts keep.

Called in a thread, while the event loop goes on. Numbers of one histogram agree with each other; those of
different metrics may be some microseconds apart. Names and meanings: docs/observability.md.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version

import grpc
from keepgate_kernels import cpu_info
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from keepgate.engine.meter import Histogram, Meter
from keepgate.errors import (
    SessionClosedError,
    SessionExpiredError,
    SessionGoneError,
    SessionLostError,
    SessionMovedError,
)
from keepgate.residents import Residents
from keepgate.sequences import Sequences
from keepgate.sessions.session import ModelKey
from keepgate.telemetry.calls import Calls, Method

MICROS = 1e6
ENDS: Mapping[type[SessionGoneError], str] = {
    SessionClosedError: "closed",
    SessionExpiredError: "expired",
    SessionLostError: "lost",
    SessionMovedError: "moved",
}
MODEL = ("model", "version")
METHOD = ("grpc_type", "grpc_service", "grpc_method")


class Metrics:
    """The document of all metrics."""

    def __init__(self, calls: Calls, sequences: Sequences) -> None:
        self._registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=self._registry)
        self._registry.register(CallsCollector(calls))
        self._registry.register(ServiceCollector(sequences))

    def document(self, accept: str) -> tuple[bytes, str]:
        """In the format that the Accept header prefers, else as plain text, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it asks for a version that is none
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


class CallsCollector(Collector):
    """grpc_server_*, as go-grpc-prometheus names them, and errors by their reasons."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        methods = list(self._calls.methods.values())
        started = CounterMetricFamily("grpc_server_started", "Calls that began.", labels=METHOD)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that ended.", labels=(*METHOD, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Messages that came.", labels=METHOD)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages that went out.", labels=METHOD)
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds from a call's begin to its end.", labels=METHOD
        )
        in_flight = 0
        for method in methods:
            labels = _method(method)
            codes = list(method.codes.items())
            in_flight -= sum(count for _, count in codes)
            in_flight += method.started
            for code, count in codes:
                handled.add_metric((*labels, _camel(code)), count)
            started.add_metric(labels, method.started)
            received.add_metric(labels, method.received)
            sent.add_metric(labels, method.sent)
            _add(seconds, labels, method.seconds)
        yield from (started, handled, received, sent, seconds)
        yield GaugeMetricFamily(
            "keepgate_calls_in_flight", "Calls and streams being served.", value=in_flight
        )
        errors = CounterMetricFamily(
            "keepgate_errors", "Errors answered, those in streams too, by reason.", labels=("reason",)
        )
        for reason, count in list(self._calls.reasons.items()):
            errors.add_metric((reason,), count)
        yield errors


class ServiceCollector(Collector):
    """nv_inference_*, as Triton names them, and keepgate_*."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        loaded = self._sequences.served()
        meters = [(tuple(key), residents.meter) for key, residents in loaded]
        yield from _triton(meters)
        yield from _steps(meters)
        yield from self._sessions(loaded)
        yield from self._models()
        yield from self._stores()
        yield GaugeMetricFamily(
            "keepgate_pending_steps",
            "Inputs admitted and not yet applied.",
            value=self._sequences.pending.count,
        )
        build = {
            "version": version("keepgate"),
            "kernel": str(cpu_info()["rung"]),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
        }
        yield InfoMetricFamily("keepgate_build", "What runs here.", value=build)

    def _sessions(self, loaded: list[tuple[ModelKey, Residents]]) -> Iterator[Metric]:
        sequences = self._sequences
        sessions = GaugeMetricFamily(
            "keepgate_sessions", "Open sessions, by where their states are.", labels=(*MODEL, "residency")
        )
        slots = GaugeMetricFamily("keepgate_slots", "Slots for states.", labels=(*MODEL, "state"))
        out = CounterMetricFamily("keepgate_evictions", "Sessions whose slot another one took.", labels=MODEL)
        back = CounterMetricFamily("keepgate_page_ins", "Sessions fetched from a store.", labels=MODEL)
        opened = CounterMetricFamily("keepgate_sessions_opened", "Sessions that began here.", labels=MODEL)
        adopted = CounterMetricFamily(
            "keepgate_sessions_adopted", "Sessions taken from a store.", labels=MODEL
        )
        ended = CounterMetricFamily(
            "keepgate_sessions_ended", "Sessions that are over here.", labels=(*MODEL, "reason")
        )
        journals = sequences.keeper.journals.values()
        for key, residents in loaded:
            resident = len(residents.recent)
            away = sum(journal.away[key] for journal in journals)
            # Ended sessions with work in flight are still resident, and not counted as open any more.
            memory = max(sequences.table.count(key) - resident - away, 0)
            for residency, count in (("resident", resident), ("memory", memory), ("store", away)):
                sessions.add_metric((*key, residency), count)
            slots.add_metric((*key, "used"), residents.slots.capacity - residents.slots.free)
            slots.add_metric((*key, "capacity"), residents.slots.capacity)
            out.add_metric(key, residents.paged_out)
            back.add_metric(key, residents.paged_in)
            opened.add_metric(key, sequences.opened[key])
            adopted.add_metric(key, sequences.adopted[key])
            for how, reason in ENDS.items():
                ended.add_metric((*key, reason), sequences.ended[key, how])
        yield from (sessions, slots, out, back, opened, adopted, ended)

    def _models(self) -> Iterator[Metric]:
        info = InfoMetricFamily("keepgate_model", "The loaded models.", labels=MODEL)
        weights = GaugeMetricFamily("keepgate_model_weight_bytes", "Memory of the weights.", labels=MODEL)
        registry = self._sequences.registry
        for model in registry:
            facts = {
                "precision": model.network.precision,
                "fingerprint": model.network.fingerprint,
                "parameters": str(model.spec.parameters),
                "condition": "retired" if registry.is_retired(model.key) else "serving",
            }
            info.add_metric(model.key, facts)
            weights.add_metric(model.key, model.network.weight_bytes)
        yield from (info, weights)

    def _stores(self) -> Iterator[Metric]:
        journals = self._sequences.keeper.journals
        failing = GaugeMetricFamily(
            "keepgate_store_failing", "1 while a store takes nothing, 0 otherwise.", labels=("store",)
        )
        seconds = HistogramMetricFamily(
            "keepgate_commit_seconds", "Seconds of a commit that the store took.", labels=("store",)
        )
        for name, journal in journals.items():
            failing.add_metric((name,), int(journal.failing_since is not None))
            _add(seconds, (name,), journal.commits)
        yield from (failing, seconds)
        commits = CounterMetricFamily("keepgate_durable_commits", "Commits of durable sessions.")
        commits.add_metric((), journals["durable"].commits.count if "durable" in journals else 0)
        yield commits


def _triton(meters: list[tuple[tuple[str, ...], Meter]]) -> Iterator[Metric]:
    """Triton's counters lack the `_total` that a counter's name must have in OpenMetrics; so to Prometheus
    they are of no type."""
    success = Metric("nv_inference_request_success", "Requests that were computed.", "unknown")
    failure = Metric("nv_inference_request_failure", "Requests that failed in computing.", "unknown")
    count = Metric("nv_inference_count", "Inputs that were applied.", "unknown")
    executed = Metric("nv_inference_exec_count", "Batches that were computed.", "unknown")
    whole = Metric("nv_inference_request_duration_us", "Microseconds of all requests.", "unknown")
    queue = Metric("nv_inference_queue_duration_us", "Microseconds requests waited for a batch.", "unknown")
    compute = Metric(
        "nv_inference_compute_infer_duration_us", "Microseconds of the batches of all requests.", "unknown"
    )
    pending = GaugeMetricFamily(
        "nv_inference_pending_request_count", "Requests that wait or are being computed.", labels=MODEL
    )
    for key, meter in meters:
        labels = dict(zip(MODEL, key, strict=True))
        done = meter.succeeded + meter.failed  # before `taken`: no difference is negative
        for metric, value in (
            (success, meter.succeeded),
            (failure, meter.failed),
            (count, meter.inputs),
            (executed, meter.batches.count),
            (whole, int(meter.answered.total * MICROS)),
            (queue, int(meter.queued * MICROS)),
            (compute, int(meter.shared * MICROS)),
        ):
            metric.add_sample(metric.name, labels, value)
        pending.add_metric(key, meter.taken - done)
    yield from (success, failure, count, executed, whole, queue, compute, pending)


def _steps(meters: list[tuple[tuple[str, ...], Meter]]) -> Iterator[Metric]:
    batches = HistogramMetricFamily("keepgate_batch_size", "Sessions of a batch.", labels=MODEL)
    seconds = HistogramMetricFamily(
        "keepgate_step_seconds", "Seconds from a request's submission to its answer.", labels=MODEL
    )
    computing = CounterMetricFamily("keepgate_compute_seconds", "Seconds of all batches.", labels=MODEL)
    for key, meter in meters:
        _add(batches, key, meter.batches)
        _add(seconds, key, meter.answered)
        computing.add_metric(key, meter.computing)
    yield from (batches, seconds, computing)


def _add(family: HistogramMetricFamily, labels: Iterable[str], histogram: Histogram) -> None:
    counts = histogram.cumulative()
    bounds = (*(f"{bound:g}" for bound in histogram.bounds), "+Inf")
    family.add_metric(list(labels), list(zip(bounds, counts, strict=True)), histogram.total)


def _method(method: Method) -> tuple[str, str, str]:
    return method.kind, method.service, method.name


def _camel(code: grpc.StatusCode) -> str:
    """As Go spells it: NotFound, OK."""
    if code is grpc.StatusCode.OK:
        return "OK"
    return "".join(part.title() for part in code.name.split("_")).replace("Cancelled", "Canceled")
