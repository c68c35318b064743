"""What a server's metrics say about the time between two looks at them. Pure: text in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

MODEL_INFO = "keepgate_model_info"
BUILD_INFO = "keepgate_build_info"


class Snapshot:
    """One document of metrics, read at `time`, in seconds of a monotonic clock.

    Raises ValueError if the text is none, or no Keepgate's.
    """

    def __init__(self, text: str, time: float) -> None:
        self.time = time
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        if BUILD_INFO not in self._samples:
            raise ValueError(f"there is no {BUILD_INFO}")

    def each(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """The samples of a name that have these labels, among others."""
        for had, value in self._samples.get(name, ()):
            if labels.items() <= had.items():
                yield had, value

    def sum(self, name: str, **labels: str) -> float:
        """The sum of those samples; 0 if there are none."""
        return sum(value for _, value in self.each(name, **labels))

    def buckets(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """A histogram's bounds and how many values were at most each, summed over other labels."""
        counts: dict[float, float] = {}
        for had, value in self.each(f"{name}_bucket", **labels):
            bound = float(had["le"])
            counts[bound] = counts.get(bound, 0.0) + value
        return sorted(counts.items())


@dataclass(frozen=True)
class ModelFrame:
    """One model version. steps, requests, errors and evictions are per second; p50, p99 and queue are
    seconds.
    Means and quantiles are None if nothing was done."""

    name: str
    version: str
    condition: str
    resident: int
    memory: int
    store: int
    slots_used: int
    slots: int
    steps: float
    requests: float
    errors: float
    evictions: float
    batch: float | None
    p50: float | None
    p99: float | None
    queue: float | None
    waiting: int

    @property
    def is_retired(self) -> bool:
        return self.condition == "retired"


@dataclass(frozen=True)
class Frame:
    """A server. calls and failed are per second; cpu is in cores, memory in bytes, up in seconds."""

    version: str
    kernel: str
    seconds: float
    up: float
    cpu: float
    memory: int
    calls: float
    failed: float
    in_flight: int
    pending_steps: int
    failing_stores: Sequence[str]
    models: Sequence[ModelFrame]


def frame_of(before: Snapshot, after: Snapshot, now: float) -> Frame:
    """What happened between the two. now: time of day, in seconds since 1970."""
    began = "process_start_time_seconds"
    restarted = before.sum(began) != after.sum(began)
    seconds = max(after.time - before.time, 1e-6)

    def rate(name: str, **labels: str) -> float:
        return _delta(before, after, restarted, name, **labels) / seconds

    build, _ = next(after.each(BUILD_INFO))
    handled = rate("grpc_server_handled_total")
    return Frame(
        version=build.get("version", ""),
        kernel=build.get("kernel", ""),
        seconds=seconds,
        up=max(now - after.sum(began), 0.0),
        cpu=rate("process_cpu_seconds_total"),
        memory=int(after.sum("process_resident_memory_bytes")),
        calls=handled,
        failed=max(handled - rate("grpc_server_handled_total", grpc_code="OK"), 0.0),
        in_flight=int(after.sum("keepgate_calls_in_flight")),
        pending_steps=int(after.sum("keepgate_pending_steps")),
        failing_stores=[labels["store"] for labels, value in after.each("keepgate_store_failing") if value],
        models=[_model(before, after, restarted, seconds, info) for info, _ in after.each(MODEL_INFO)],
    )


def _model(
    before: Snapshot, after: Snapshot, restarted: bool, seconds: float, info: Mapping[str, str]
) -> ModelFrame:
    key: dict[str, Any] = {"model": info["model"], "version": info["version"]}

    def delta(name: str) -> float:
        return _delta(before, after, restarted, name, **key)

    def sessions(residency: str) -> int:
        return int(after.sum("keepgate_sessions", residency=residency, **key))

    done = delta("nv_inference_request_success")
    batches = delta("keepgate_batch_size_count")
    old = dict(() if restarted else before.buckets("keepgate_step_seconds", **key))
    answered = [
        (bound, max(count - old.get(bound, 0.0), 0.0))
        for bound, count in after.buckets("keepgate_step_seconds", **key)
    ]
    return ModelFrame(
        name=info["model"],
        version=info["version"],
        condition=info.get("condition", ""),
        resident=sessions("resident"),
        memory=sessions("memory"),
        store=sessions("store"),
        slots_used=int(after.sum("keepgate_slots", state="used", **key)),
        slots=int(after.sum("keepgate_slots", state="capacity", **key)),
        steps=delta("nv_inference_count") / seconds,
        requests=done / seconds,
        errors=delta("nv_inference_request_failure") / seconds,
        evictions=delta("keepgate_evictions_total") / seconds,
        batch=delta("keepgate_batch_size_sum") / batches if batches else None,
        p50=quantile(answered, 0.5),
        p99=quantile(answered, 0.99),
        queue=delta("nv_inference_queue_duration_us") / done / 1e6 if done else None,
        waiting=int(after.sum("nv_inference_pending_request_count", **key)),
    )


def _delta(before: Snapshot, after: Snapshot, restarted: bool, name: str, **labels: str) -> float:
    """How much a counter rose; from 0 if the process or the model is a new one."""
    now, then = after.sum(name, **labels), 0.0 if restarted else before.sum(name, **labels)
    return now - then if now >= then else now


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """As histogram_quantile of PromQL: linear within a bucket, the last bound for what is beyond it.

    buckets: bounds, ascending to infinity, and how many values were at most each. None if there are none.
    """
    count = buckets[-1][1] if buckets else 0.0
    if not count:
        return None
    rank = share * count
    low, below = 0.0, 0.0
    for bound, upto in buckets:
        if upto >= rank:
            return (
                low if math.isinf(bound) else low + (bound - low) * (rank - below) / max(upto - below, 1e-9)
            )
        low, below = bound, upto
    return low
