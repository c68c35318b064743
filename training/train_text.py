"""Train one character model of one cell; resumable; writes its curve as JSON.

    python training/train_text.py --cell lstm --text OUT/shakespeare.txt --run RUNS

Every cell sees the same batches in the same order, the same number of steps and the same
schedule. Its peak learning rate comes from the same procedure for each (``--sweep``): short
runs over less than one epoch, compared by their training loss, so nothing held out is used.
Truncated back-propagation through time with the state carried on (stateful streams).

B streams, T characters a window, H hidden units, E embedding, V characters.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from cells import CELLS, RecurrentLayer, State
from corpus import alphabet_of, encode, split_held_out
from torch import Tensor, nn

NATS_PER_BIT = math.log(2)
SWEEP_STEPS = 200
SWEEP_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
# A run of 200 steps favours a higher rate than one of 7,000 bears: take half of its winner.
SWEEP_TO_RUN = 0.5


@dataclass(frozen=True)
class Config:
    """What a run is; equal for all cells but ``cell`` and ``peak_rate``."""

    cell: str
    peak_rate: float
    hidden: int = 384
    embedding: int = 64
    streams: int = 64
    window: int = 64
    steps: int = 7_000
    warmup: int = 200
    clip: float = 1.0
    seed: int = 1
    evaluate_every: int = 350


class CharacterModel(nn.Module):
    """Embedding [V, E] -> one recurrent layer [H] -> logits over V."""

    def __init__(self, cell: str, alphabet: int, embedding: int, hidden: int) -> None:
        """Parameters drawn from torch's global generator: seed it first."""
        super().__init__()
        self.embedding = nn.Embedding(alphabet, embedding)
        self.layer = RecurrentLayer(cell, embedding, hidden)
        self.head = nn.Linear(hidden, alphabet)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """From tokens [T, B] to (logits [T, B, V], the last state).

        The input product is folded into a table of one row a character, [V, G*H].
        """
        table = self.embedding.weight @ self.layer.weight_ih.t() + self.layer.bias
        h, state = self.layer.run(nn.functional.embedding(tokens, table), state)
        return self.head(h), state


def learning_rate(step: int, config: Config) -> float:
    """Linear warm-up, then a cosine from the peak to a hundredth of it."""
    if step < config.warmup:
        return config.peak_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.peak_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Windows:
    """Windows of B contiguous streams; the batch is a function of the step alone."""

    def __init__(self, tokens: np.ndarray, config: Config) -> None:
        """tokens: int64 [N]."""
        self.config = config
        length = len(tokens) // config.streams
        rows = tokens[: length * config.streams].reshape(config.streams, length)
        self.rows = torch.from_numpy(np.ascontiguousarray(rows.T))  # [length, B]
        # One window less, so that each epoch may start at its own offset.
        self.per_epoch = (length - 1) // config.window - 1

    def at(self, step: int) -> tuple[Tensor, bool]:
        """(tokens [T + 1, B], whether the streams start anew here)."""
        epoch, window = divmod(step, self.per_epoch)
        offset = int(np.random.default_rng((self.config.seed, epoch)).integers(self.config.window))
        start = offset + window * self.config.window
        return self.rows[start : start + self.config.window + 1], window == 0


@torch.no_grad()
def held_out_bits(model: CharacterModel, tokens: np.ndarray, streams: int = 64) -> float:
    """Bits a character on tokens [N], in ``streams`` pieces run side by side.

    Each piece is primed with the 256 characters before it (not scored); with ``streams=1``
    this is the whole text in one pass, the state carried from its start.
    """
    primer = 256 if streams > 1 else 0
    length = (len(tokens) - 1) // streams
    starts = [1 + k * length for k in range(streams)]
    padded = np.concatenate([np.zeros(primer, dtype=np.int64), tokens])
    # Column k: the primer, then the characters that predict piece k, then its last one.
    columns = np.stack([padded[s - 1 : s + primer + length] for s in starts], axis=1)
    block = torch.from_numpy(columns)
    state, total = model.layer.zero_state(streams), 0.0
    for start in range(0, len(block) - 1, 512):
        inputs = block[start : min(start + 512, len(block) - 1)]
        targets = block[start + 1 : start + 1 + len(inputs)]
        logits, state = model(inputs, state)
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        loss[: max(0, primer - start)] = 0.0
        total += float(loss.double().sum())
    return total / NATS_PER_BIT / (length * streams)


class Trainer:
    """Model, optimiser, carried state and the run's record."""

    def __init__(self, config: Config, training: np.ndarray, alphabet: str) -> None:
        """training: tokens int64 [N]."""
        torch.manual_seed(config.seed)
        self.config = config
        self.model = CharacterModel(config.cell, len(alphabet), config.embedding, config.hidden)
        self.optimiser = torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.99), fused=True)
        self.windows = Windows(training, config)
        self.state = self.model.layer.zero_state(config.streams)
        self.step = 0
        self.seconds = {"wall": 0.0, "cpu": 0.0}

    def train_step(self) -> float:
        """One optimiser step; returns the loss before it, in bits a character."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        block, anew = self.windows.at(self.step)
        if anew:
            self.state = self.model.layer.zero_state(self.config.streams)
        logits, state = self.model(block[:-1], self.state)
        self.state = tuple(part.detach() for part in state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), block[1:].flatten())
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step()
        self.step += 1
        return loss.item() / NATS_PER_BIT

    def advance(self, until: int) -> float:
        """Train to step ``until``; returns the mean training loss on the way, in bits."""
        wall, cpu, total, steps = time.perf_counter(), time.process_time(), 0.0, until - self.step
        while self.step < until:
            total += self.train_step()
        self.seconds["wall"] += time.perf_counter() - wall
        self.seconds["cpu"] += time.process_time() - cpu
        return total / steps

    def save(self, path: Path, curve: list[dict[str, float]]) -> None:
        """A checkpoint to resume from, replaced atomically."""
        content = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": self.state,
            "step": self.step,
            "seconds": self.seconds,
            "curve": curve,
        }
        torch.save(content, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> list[dict[str, float]]:
        """Resume; returns the curve so far."""
        content = torch.load(path, weights_only=True)
        self.model.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.state, self.step = tuple(content["state"]), content["step"]
        self.seconds = content["seconds"]
        return list(content["curve"])


def sweep(cell: str, training: np.ndarray, alphabet: str, run: Path) -> float:
    """Pick the peak rate: short full schedules, least mean training loss of the last quarter."""
    losses: dict[float, float] = {}
    for rate in SWEEP_RATES:
        config = Config(cell, rate, steps=SWEEP_STEPS, warmup=SWEEP_STEPS // 10)
        trainer = Trainer(config, training, alphabet)
        trainer.advance(SWEEP_STEPS * 3 // 4)
        losses[rate] = trainer.advance(SWEEP_STEPS)
        print(f"{cell} rate {rate:g}: {losses[rate]:.4f} bits", flush=True)
    best = min(losses, key=lambda rate: losses[rate])
    record = {"cell": cell, "steps": SWEEP_STEPS, "losses": losses, "best": best}
    (run / f"{cell}-sweep.json").write_text(json.dumps(record, indent=1) + "\n")
    return best


def train(trainer: Trainer, held_out: np.ndarray, run: Path, alphabet: str) -> None:
    """Train to the end, evaluating as it goes; writes the curve and the final arrays."""
    config, checkpoint = trainer.config, run / f"{trainer.config.cell}.pt"
    curve = trainer.load(checkpoint) if checkpoint.exists() else []
    while trainer.step < config.steps:
        until = min(trainer.step + config.evaluate_every, config.steps)
        training_bits = trainer.advance(until)
        point = {
            "step": trainer.step,
            "training_bits": round(training_bits, 5),
            "held_out_bits": round(held_out_bits(trainer.model, held_out), 5),
            "wall_seconds": round(trainer.seconds["wall"], 2),
            "cpu_seconds": round(trainer.seconds["cpu"], 2),
        }
        curve.append(point)
        trainer.save(checkpoint, curve)
        print(config.cell, json.dumps(point), flush=True)
    parameters = {name: p.detach().numpy() for name, p in trainer.model.named_parameters()}
    np.savez(run / f"{config.cell}.npz", alphabet=np.array(alphabet), **parameters)  # type: ignore[arg-type]
    record = {
        "config": asdict(config),
        "parameters": sum(p.size for p in parameters.values()),
        "parameters_recurrent_layer": sum(
            p.size for name, p in parameters.items() if name.startswith("layer.")
        ),
        "characters_a_step": config.streams * config.window,
        "epochs": round(config.steps / trainer.windows.per_epoch, 2),
        "held_out_bits": round(held_out_bits(trainer.model, held_out, streams=1), 4),
        "curve": curve,
    }
    (run / f"{config.cell}.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Train one character model.")
    parser.add_argument("--cell", choices=CELLS, required=True)
    parser.add_argument("--text", type=Path, required=True, help="shakespeare.txt of corpus.py")
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoints, results")
    parser.add_argument("--rate", type=float, help="peak learning rate (else from the sweep)")
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--seed", type=int, default=Config.seed)
    parser.add_argument("--sweep", action="store_true", help="only choose the rate")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    args.run.mkdir(parents=True, exist_ok=True)
    training, held_out = split_held_out(args.text.read_text("ascii"))
    alphabet = alphabet_of(training)
    tokens = encode(training, alphabet)
    if args.sweep:
        sweep(args.cell, tokens, alphabet, args.run)
        return
    if args.rate is None:
        record = json.loads((args.run / f"{args.cell}-sweep.json").read_text())
        args.rate = SWEEP_TO_RUN * record["best"]
    config = Config(args.cell, args.rate, steps=args.steps, seed=args.seed)
    train(Trainer(config, tokens, alphabet), encode(held_out, alphabet), args.run, alphabet)


if __name__ == "__main__":
    main()
