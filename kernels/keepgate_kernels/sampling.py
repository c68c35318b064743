"""Drawing a token: a pure function of logits, seed, position and options.

The same draw can therefore be made in the kernel, by a client that holds the logits, or years later.
Random numbers: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, 2011), keyed by the seed, counted by the
position. Order of operations: temperature, then top-k, then top-p over what top-k left, as most libraries
do. Equal logits rank by ascending token id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.answers import draw_alone, list_alone
from keepgate_kernels.cpu.powers import make_work
from keepgate_kernels.cpu.vectors import WIDTH
from keepgate_kernels.jit import entry

BEYOND_FLOAT32 = 2.0**128 - 2.0**103
"""The least number that rounds to more than float32 holds."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn.

    temperature: 0 or more; 0 takes the most probable token. top_k: tokens kept; 0, or as many as there are,
    keeps all. top_p: above 0, up to 1, which keeps all. seed: 64 bits.
    Raises ValueError naming the field at fault.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds: tuple[tuple[str, float, bool, str], ...] = (
            (
                "temperature",
                self.temperature,
                math.isfinite(self.temperature) and self.temperature >= 0,
                "a finite number, at least 0",
            ),
            ("top_k", self.top_k, 0 <= self.top_k < 1 << 32, "from 0 to 2**32 - 1"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("seed", self.seed, 0 <= self.seed < 1 << 64, "from 0 to 2**64 - 1"),
        )
        for name, value, valid, expected in bounds:
            if not valid:
                raise ValueError(f"{name}: got {value}, expected {expected}")

    def as_record(self) -> tuple[int, float, float, int]:
        """Values in the order of OPTIONS; a temperature that float32 cannot hold is infinite."""
        temperature = self.temperature if self.temperature < BEYOND_FLOAT32 else math.inf
        return self.seed, temperature, self.top_p, self.top_k


OPTIONS = [("seed", "<u8"), ("temperature", "<f4"), ("top_p", "<f4"), ("top_k", "<u4")]
"""Fields of a record that tells `draw` how."""


@entry
def _draw_one(logits, position, options, work):
    return draw_alone(logits, position, options[0], work)


@entry
def _list_one(logits, work, top):
    list_alone(logits, work, top)


def sample(logits: NDArray[np.float32], position: int, sampling: Sampling) -> tuple[int, float]:
    """Draw as the kernel does: (token id, natural log-probability under the model itself).

    logits: float32 [V], finite; position: the session's position after the input that gave these logits.
    Raises ValueError if a logit is NaN or infinite.
    """
    options = np.array([sampling.as_record()], np.dtype(OPTIONS, align=True))
    row = _row(logits)
    token, log_probability = _draw_one(row, np.uint64(position), options, make_work(row.size))
    return int(token), float(log_probability)


def top_tokens(logits: NDArray[np.float32], count: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """The `count` most probable tokens [count], best first, and their log-probabilities [count].

    logits: float32 [V], finite. Raises ValueError if a logit is not, or unless 1 <= count <= V.
    """
    if not 1 <= count <= logits.size:
        raise ValueError(f"count: got {count}, expected 1 to the vocabulary size, {logits.size}")
    row = _row(logits)
    top = np.empty(2 * count, np.float32)
    _list_one(row, make_work(row.size), top)
    return top[:count].view(np.uint32), top[count:]


def _row(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits [V] at the front of memory that goes on to a whole vector."""
    if not np.isfinite(logits).all():
        raise ValueError("logits: got NaN or infinity, expected finite numbers")
    row = np.zeros(-(-logits.size // WIDTH) * WIDTH, np.float32)[: logits.size]
    row[:] = logits
    return row
