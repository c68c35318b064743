"""Time a training step of each cell, alternately in one process, and write JSON.

    python training/measure_training.py --text OUT/shakespeare.txt

One thread. Rounds of a few steps a cell, in turn, so that what else the machine does falls on
all four alike; the median over the rounds of the processor seconds and of the wall seconds a
step goes into ``training/results/training_step.json``. Multiplied by the number of steps it is
the time axis of ``docs/cells.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from cells import CELLS
from corpus import alphabet_of, encode, split_held_out
from train_text import Config, Trainer

ROUNDS, STEPS_A_ROUND, WARM_UP = 15, 4, 3
RESULT = Path(__file__).resolve().parent / "results" / "training_step.json"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Time a training step of each cell.")
    parser.add_argument("--text", type=Path, required=True, help="shakespeare.txt of corpus.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    training, _ = split_held_out(args.text.read_text("ascii"))
    alphabet = alphabet_of(training)
    tokens = encode(training, alphabet)
    trainers = {cell: Trainer(Config(cell, 1e-3), tokens, alphabet) for cell in CELLS}
    for trainer in trainers.values():
        trainer.advance(WARM_UP)
    seconds: dict[str, dict[str, list[float]]] = {c: {"cpu": [], "wall": []} for c in CELLS}
    for _ in range(ROUNDS):
        for cell, trainer in trainers.items():
            cpu, wall = time.process_time(), time.perf_counter()
            trainer.advance(trainer.step + STEPS_A_ROUND)
            seconds[cell]["wall"].append((time.perf_counter() - wall) / STEPS_A_ROUND)
            seconds[cell]["cpu"].append((time.process_time() - cpu) / STEPS_A_ROUND)
    record = {
        cell: {f"{kind}_seconds": round(statistics.median(s), 5) for kind, s in kinds.items()}
        for cell, kinds in seconds.items()
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
