"""The token case: an LSTM that writes characters for a full batch of sessions, sampling included."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    Lanes,
    LayerSpec,
    ModelSpec,
    Network,
    Sampling,
    TokenInput,
    reference,
)

from kernel_bench.ours import measure_kernel
from kernel_bench.problem import CHECKED, KERNEL, OURS, Contender, Float32

SPEC = ModelSpec(TokenInput(78, 32), (LayerSpec(CellSpec(CellKind.LSTM), 128),), CategoricalHead(78))
SESSIONS = 1024
LOG_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "int8": 1e-1}
"""Largest error of a drawn token's log-probability; the weights below spread the logits by about 1."""
TEMPERATURE = 0.8
KERNEL_REPEATS = 4


def random_tensors() -> dict[str, Float32]:
    """Weights as PyTorch initialises them, except for a livelier embedding and head: uneven probabilities."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(128**-0.5)
        for name, shape in SPEC.tensors().items()
    }
    for name in ("embedding.weight", "head.weight"):
        tensors[name] = rng.normal(0, 1, tensors[name].shape).astype(np.float32)
    return tensors


class Writers:
    """SESSIONS sessions that feed every drawn token back."""

    def __init__(self, tensors: dict[str, Float32], precision: str) -> None:
        self.tensors, self.precision = tensors, precision
        self.network = Network(SPEC, tensors, slots=SESSIONS, precision=precision)
        self.lanes = Lanes(SPEC, max_lanes=SESSIONS, max_inputs=SESSIONS)
        self.slots = [self._add(session) for session in range(SESSIONS)]

    def _add(self, session: int) -> int:
        slot = self.network.slots.allocate()
        if slot is None:
            raise RuntimeError("fewer slots than sessions")
        token = np.array([session % SPEC.head.size], np.uint32)
        self.lanes.add(slot, token, position=1, sampling=self.sampling(session))
        return slot

    @staticmethod
    def sampling(session: int) -> Sampling:
        return Sampling(temperature=TEMPERATURE, seed=session)

    def step(self) -> None:
        """Feed the tokens drawn last, step, draw."""
        self.network.step(self.lanes)
        records = self.lanes.batch.lanes
        self.lanes.batch.tokens[:SESSIONS] = records["token"]
        records["position"] += 1

    def error(self, first_step: Callable[[], object]) -> float:
        """Largest error of h after the first step; infinite if a token's log-probability is wrong too."""
        first = self.lanes.batch.tokens[:SESSIONS].copy()
        first_step()
        worst = 0.0
        for session in (*range(CHECKED), *range(SESSIONS - CHECKED, SESSIONS)):
            start = reference.zero_state(SPEC)
            logits, state = reference.step(SPEC, self.tensors, start, int(first[session]))
            h = self.network.hidden(self.slots[session])[0]
            worst = max(worst, float(np.abs(h - state[0][0]).max()))
            expected = reference.log_softmax(logits)[self.lanes.token(session)]
            if abs(self.lanes.log_probability(session) - expected) > LOG_TOLERANCE[self.precision]:
                return math.inf
        return worst


def contenders(precision: str) -> Iterator[Contender]:
    """One step of all sessions, from Python with the tokens fed back, and the kernel alone."""
    tensors = random_tensors()
    writers = Writers(tensors, precision)
    error = functools.partial(writers.error, lambda: writers.network.step(writers.lanes))
    yield Contender(OURS, precision, "step", writers.step, error)

    alone = Writers(tensors, precision)
    kernel = measure_kernel(alone.network, alone.lanes, KERNEL_REPEATS)
    once = measure_kernel(alone.network, alone.lanes, 1)
    error = functools.partial(alone.error, once)
    yield Contender(KERNEL, precision, "tick", kernel, error, steps=KERNEL_REPEATS)


def description() -> str:
    """The case in words."""
    return (
        f"LSTM-{SPEC.layers[0].hidden_size}, {SPEC.head.size} tokens, {SESSIONS:,} sessions a batch, "
        f"temperature {TEMPERATURE}"
    )
