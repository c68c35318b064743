"""What follows from the medians in the JSON document: ratios to the fastest peer, shares of the limits."""

from __future__ import annotations

from statistics import median
from typing import Any

from kernel_bench.problem import BYTES, KERNEL, OURS, PEAK, STREAMING

Entry = dict[str, Any]
Case = dict[str, Any]

PRECISIONS = ("fp32", "bf16", "int8")
NOT_PEERS = {OURS, KERNEL, STREAMING, PEAK}

COMPARED = {"fp32": ("fp32",), "bf16": ("fp32", "bf16"), "int8": PRECISIONS}
"""What peers compute in that a precision of ours is compared with: as precise as ours or more."""

LARGE_BATCH = 64
"""From here on a step is bound by arithmetic; at batch 1 it is bound by reading the weights."""


def find(case: Case, library: str, precision: str) -> Entry | None:
    """A case's entry, None if it was not measured."""
    for entry in case["entries"]:
        if (entry["library"], entry["precision"]) == (library, precision):
            found: Entry = entry
            return found
    return None


def micros(case: Case, library: str, precision: str) -> float | None:
    """Median microseconds of a step."""
    entry = find(case, library, precision)
    return None if entry is None else float(entry["median_us"])


def fastest_peer(case: Case, precisions: tuple[str, ...]) -> Entry | None:
    """The peer with the least median in these precisions."""
    peers = [
        entry
        for entry in case["entries"]
        if entry["library"] not in NOT_PEERS and entry["precision"] in precisions
    ]
    return min(peers, key=lambda entry: float(entry["median_us"]), default=None)


def speedup(case: Case, precision: str) -> float | None:
    """How many times faster our step is, from Python, than the fastest peer that is as precise."""
    own, peer = micros(case, OURS, precision), fastest_peer(case, COMPARED[precision])
    return None if own is None or peer is None else float(peer["median_us"]) / own


def in_kernel(case: Case, precision: str) -> float | None:
    """Microseconds of our step without the way in from Python where that was measured, else with it."""
    alone = micros(case, KERNEL, precision)
    return micros(case, OURS, precision) if alone is None else alone


def streaming_multiple(case: Case, precision: str) -> float | None:
    """Our step's time as a multiple of reading the weights once."""
    own, streaming = in_kernel(case, precision), micros(case, STREAMING, precision)
    return None if own is None or streaming is None else own / streaming


def peak_rate(case: Case, precision: str) -> float | None:
    """Peak of the instruction of a precision in operations a microsecond; bf16 without one runs on fp32's."""
    entry = find(case, PEAK, precision)
    if entry is None and precision == "bf16":
        entry = find(case, PEAK, "fp32")
    return None if entry is None else entry["operations"] / float(entry["median_us"])


def peak_share(case: Case, precision: str) -> float | None:
    """Our operations a second as a share of the peak."""
    own, rate = in_kernel(case, precision), peak_rate(case, precision)
    return None if own is None or rate is None else case["operations"] / own / rate


def giga_operations(case: Case, entry: Entry) -> float:
    """GOP/s of an entry: operations of the matrix products over the time of the whole step."""
    return float(case["operations"]) / float(entry["median_us"]) / 1e3


def intensity(case: Case, precision: str) -> float:
    """Operations a byte: each weight is read once in its precision, x and the state come and go in fp32."""
    return float(case["operations"] / (case["weights"] * BYTES[precision] + case["state_bytes"]))


def bandwidth(case: Case, precision: str) -> float | None:
    """GB/s of reading a buffer of the weights' size."""
    streaming = micros(case, STREAMING, precision)
    return None if streaming is None else case["weights"] * BYTES[precision] / streaming / 1e3


def peaks(document: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Instruction and GOP/s of every precision that has one: the median over the cases."""
    found = {}
    for precision in PRECISIONS:
        entries = [entry for case in document["cases"] if (entry := find(case, PEAK, precision)) is not None]
        if entries:
            rates = [entry["operations"] / entry["median_us"] / 1e3 for entry in entries]
            found[precision] = (str(entries[0]["variant"]), median(rates))
    return found
