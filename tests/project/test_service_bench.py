"""The benchmark of the service: its tables, its ratios, and the batching that its peers share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from service_bench.load import Clock, Sample
from service_bench.rounds import summarise
from service_bench.servers.ticker import Answers, Ticker
from service_bench.tables import BEGIN, DOCUMENT, END, RESULTS, in_markdown, with_figures


def made_up_document() -> dict[str, Any]:
    row = {"steps_per_second": 12_345.6, "ratio": 1.5, "p50_us": 80.0, "p99_us": 99.0, "server_us": 70.0}
    return {
        "machine": {"processor": "A processor", "cores": 2, "rung": "avx2", "python": "3.11.0"},
        "packages": {"grpcio": "1.2.3"},
        "rounds": 3,
        "seconds": 1.5,
        "left_out": ["MLServer"],
        "cases": [
            {
                "title": "LSTM-128",
                "settings": {"Keepgate": "defaults"},
                "wrong": [],
                "medians": [{"server": "Keepgate", "call": "Stream", "sessions": 32, **row}],
            }
        ],
    }


def test_the_document_has_a_place_for_the_figures() -> None:
    text = with_figures(DOCUMENT.read_text(), made_up_document())
    assert "| 32 | Keepgate | Stream | 12,346 | 1.50 | 80 | 99 | 70 |" in text
    assert "Not measured: MLServer." in text
    assert with_figures(text, made_up_document()) == text
    with pytest.raises(ValueError, match="marks"):
        with_figures(text.replace(END, ""), made_up_document())


def test_the_document_has_the_figures_of_the_last_run() -> None:
    between = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    measured = in_markdown(json.loads(RESULTS.read_text())).strip() if RESULTS.exists() else ""
    assert between == measured


def test_ratios_are_to_the_fastest_peer_of_the_same_round() -> None:
    def samples(ours: float, one: float, other: float) -> list[Sample]:
        rates = {"Keepgate": ours, "MLServer": one, "PyTorch by hand": other}
        return [Sample(name, "Step", 32, rate, 1.0, 2.0, 3.0) for name, rate in rates.items()]

    rows = summarise([samples(100, 50, 20), samples(300, 10, 100), samples(90, 90, 10)])
    assert [(row["server"], row["ratio"]) for row in rows] == [
        ("Keepgate", 2.0),
        ("MLServer", 1.0),
        ("PyTorch by hand", 0.4),
    ]
    assert rows[0]["steps_per_second"] == 100


@pytest.mark.parametrize("in_thread", [False, True])
def test_what_arrives_together_is_one_batch_and_a_session_is_in_it_once(in_thread: bool) -> None:
    batches: list[tuple[list[int], list[int]]] = []

    def step(slots: list[int], tokens: list[int]) -> Answers:
        batches.append((slots, tokens))
        return [token + 1 for token in tokens], [-0.5] * len(tokens)

    async def submit() -> list[tuple[int, float]]:
        ticker = Ticker(step, in_thread=in_thread)
        return await asyncio.gather(*(ticker.submit(slot, token) for slot, token in ((5, 1), (6, 2), (5, 3))))

    assert asyncio.run(submit()) == [(2, -0.5), (3, -0.5), (4, -0.5)]
    assert batches == [([5, 6], [1, 2]), ([5], [3])]


def test_a_slow_answer_is_waited_for() -> None:
    clock = Clock(0.0)
    assert not clock.note(0.0, steps=7)
    sample = clock.sample("a server", "Step", 1, 1.0)
    assert sample.steps_per_second > 0
