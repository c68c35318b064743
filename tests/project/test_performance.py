"""docs/performance.md shows what was measured: the tables of the JSON file, and the plot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kernel_bench import figures, tables
from kernel_bench.files import BEGIN, DOCUMENT, END, PLOT, RESULTS, with_figures


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(RESULTS.read_text())
    return measured


def test_the_document_has_the_figures_of_the_last_run(document: dict[str, Any]) -> None:
    text = DOCUMENT.read_text()
    assert with_figures(text, document) == text
    assert f"]({PLOT.name})" in text
    assert PLOT.read_bytes().startswith(b"\x89PNG")


def test_the_whole_grid_was_measured_and_nothing_was_wrong(document: dict[str, Any]) -> None:
    measured = {(case["cell"], case["hidden"], case["batch"]) for case in document["cases"]}
    assert measured == {
        (cell, hidden, batch)
        for cell in ("lstm", "gru")
        for hidden in (128, 256, 512, 1024)
        for batch in (1, 8, 64, 256)
    }
    assert document["wrong"] == []


def made_up_case(**times: float) -> dict[str, Any]:
    """A case of batch 1 with 1,000 weights whose entries take the given microseconds."""
    names = {
        "ours": ("Keepgate", "int8"),
        "alone": ("Keepgate kernel", "int8"),
        "fp32_peer": ("PyTorch", "fp32"),
        "int8_peer": ("PyTorch", "int8"),
        "read": ("streaming", "int8"),
        "peak": ("peak", "int8"),
    }
    entries = []
    for name, micros in times.items():
        library, precision = names[name]
        entries.append({"library": library, "precision": precision, "median_us": micros, "operations": 1000})
    return {"weights": 1000, "operations": 2000, "state_bytes": 0, "entries": entries}


def test_int8_is_compared_with_every_peer_and_fp32_with_its_like() -> None:
    case = made_up_case(ours=2.0, fp32_peer=3.0, int8_peer=5.0)
    assert figures.speedup(case, "int8") == 1.5
    assert figures.speedup(case, "fp32") is None
    peer = figures.fastest_peer(case, figures.COMPARED["fp32"])
    assert peer is not None
    assert peer["precision"] == "fp32"


def test_limits_are_compared_with_the_kernel_alone_where_it_was_measured() -> None:
    assert figures.streaming_multiple(made_up_case(ours=6.0, read=2.0), "int8") == 3.0
    assert figures.streaming_multiple(made_up_case(ours=6.0, alone=3.0, read=2.0), "int8") == 1.5


def test_the_share_of_the_peak() -> None:
    # 2,000 operations in 8 us beside 1,000 in 1 us.
    assert figures.peak_share(made_up_case(ours=8.0, peak=1.0), "int8") == 0.25


def test_marks_are_needed(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="marks"):
        with_figures(DOCUMENT.read_text().replace(END, ""), document)
    assert with_figures(BEGIN + END, document) == BEGIN + "\n" + tables.in_markdown(document) + "\n" + END
