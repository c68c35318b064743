"""Time one step of each bundled character model in Keepgate's kernels, alternately, and write JSON.

    python training/measure_latency.py

A call of ``Network.step`` advances B sessions by one character each, head and drawing of the
next one included; no server and no network. Rounds of a few calls a model, in turn, in one
process, so that what else the machine does falls on all alike. The medians over the rounds go
into ``training/results/latency.json``: microseconds a call, and a call's ratio to the LSTM's in
the same round, which other load on the machine moves less.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
from keepgate.models.format import load_model
from keepgate_kernels import Lanes, Network, Sampling
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "service" / "keepgate" / "bundled_models"
CELLS = ("rnn", "lstm", "cifg", "gru")
BATCHES = (1, 16, 64, 256)
ROUNDS, ROUND_SECONDS = 100, 0.02


class Stepper:
    """One model with B sessions, fed from B places of the held-out text."""

    def __init__(self, cell: str, batch: int) -> None:
        """Load the model and take B slots."""
        loaded = load_model(MODELS / f"shakespeare-{cell}" / "1" / "model.safetensors")
        if loaded.spec.tokenizer is None:
            raise ValueError(f"shakespeare-{cell} has no alphabet")
        index = {c: token for token, c in enumerate(loaded.spec.tokenizer.vocabulary)}
        text = (HERE / "corpus" / "held_out.txt").read_text("ascii")
        self.tokens: NDArray[np.uint32] = np.array([index[c] for c in text], dtype=np.uint32)
        self.network = Network(loaded.spec, loaded.tensors, slots=batch + 1)
        self.network.compile()
        self.lanes = Lanes(loaded.spec, max_lanes=batch, max_inputs=batch)
        self.slots = [self.network.slots.allocate() for _ in range(batch)]
        self.position = 0

    def step(self) -> float:
        """Advance every session by one character; returns the seconds of the jitted call."""
        self.lanes.clear()
        stride = len(self.tokens) // len(self.slots)
        for k, slot in enumerate(self.slots):
            at = (k * stride + self.position) % len(self.tokens)
            if slot is None:
                raise RuntimeError("no free slot")
            token = self.tokens[at : at + 1]
            self.lanes.add(slot, token, position=self.position + 1, sampling=Sampling())
        self.position += 1
        begin = time.perf_counter()
        self.network.step(self.lanes)
        return time.perf_counter() - begin

    def round(self) -> float:
        """Median seconds of a call over one round."""
        seconds = [self.step()]
        while sum(seconds) < ROUND_SECONDS:
            seconds.append(self.step())
        return statistics.median(seconds)


def main() -> None:
    """Measure every batch size; write and print the medians."""
    record: dict[str, dict[str, dict[str, float]]] = {cell: {} for cell in CELLS}
    for batch in BATCHES:
        steppers = {cell: Stepper(cell, batch) for cell in CELLS}
        rounds: dict[str, list[float]] = {cell: [] for cell in CELLS}
        for stepper in steppers.values():
            stepper.round()
        for _ in range(ROUNDS):
            for cell, stepper in steppers.items():
                rounds[cell].append(stepper.round())
        for cell, seconds in rounds.items():
            ratios = [mine / lstm for mine, lstm in zip(seconds, rounds["lstm"], strict=True)]
            record[cell][str(batch)] = {
                "microseconds": round(statistics.median(seconds) * 1e6, 1),
                "ratio_to_lstm": round(statistics.median(ratios), 3),
            }
    (HERE / "results" / "latency.json").write_text(json.dumps(record, indent=1) + "\n")
    print("| cell |", " | ".join(f"B={batch}" for batch in BATCHES), "|")
    for cell, calls in record.items():
        columns = [f"{c['microseconds']:.0f} ({c['ratio_to_lstm']:.2f})" for c in calls.values()]
        print(f"| {cell} |", " | ".join(columns), "|")


if __name__ == "__main__":
    main()
