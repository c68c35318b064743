"""How well a model knows a text in each precision, computed in this process: no server, no sessions."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from keepgate_kernels import Lanes, Network, Sampling
from numpy.typing import NDArray

from keepgate.models.format import LoadedFile

PIECE = 4096
"""Tokens computed in one call: enough to make the call's own cost nothing, and time to show progress."""
GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class PrecisionScore:
    """A text's log-likelihood (natural logarithm) under a model in one precision, and what that took.

    scored: tokens in the sum, all but the first, which has nothing before it. seconds_per_token: median
    over the pieces of the text, of one sequence computed alone.
    """

    precision: str
    log_likelihood: float
    scored: int
    weight_bytes: int
    seconds_per_token: float

    @property
    def bits_per_token(self) -> float:
        """Mean code length of a scored token in bits."""
        return -self.log_likelihood / math.log(2) / self.scored

    def against(self, exact: PrecisionScore) -> float:
        """How many bits more than `exact`, as a fraction: 0.01 is one per cent more."""
        if exact.bits_per_token == 0.0:  # a vocabulary of one, or a text known by heart
            return math.copysign(math.inf, self.bits_per_token) if self.bits_per_token else 0.0
        return self.bits_per_token / exact.bits_per_token - 1.0


class _Run:
    """One precision's way through the text."""

    def __init__(self, file: LoadedFile, precision: str, threads: int) -> None:
        self.network = Network(file.spec, file.tensors, slots=1, precision=precision, threads=threads)
        self.network.compile()
        self._lanes = Lanes(file.spec, max_lanes=1, max_inputs=PIECE)
        slot = self.network.slots.allocate()
        if slot is None:
            raise RuntimeError("a new network has no free slot")
        self._slot = slot
        self._likelihoods: list[float] = []
        self._seconds: list[float] = []
        self._position = 0

    def score(self, tokens: NDArray[np.uint32]) -> None:
        """Apply and score the next tokens [T], T up to PIECE."""
        begin = self._position
        self._position += len(tokens)
        self._lanes.clear()
        lane = self._lanes.add(
            self._slot, tokens, position=self._position, sampling=GREEDY, predict=False, score=True
        )
        started = time.perf_counter()
        self.network.step(self._lanes)
        self._seconds.append((time.perf_counter() - started) / len(tokens))
        scores = self._lanes.scores(lane)[1 if begin == 0 else 0 :]
        self._likelihoods.append(float(scores.sum(dtype=np.float64)))

    def result(self) -> PrecisionScore:
        # The last piece may be a few tokens, whose time is mostly that of the call.
        whole = self._seconds[:-1] or self._seconds
        return PrecisionScore(
            precision=self.network.precision,
            log_likelihood=math.fsum(self._likelihoods),
            scored=self._position - 1,
            weight_bytes=self.network.weight_bytes,
            seconds_per_token=statistics.median(whole),
        )


def score_precisions(
    file: LoadedFile,
    tokens: NDArray[np.uint32],
    precisions: list[str],
    *,
    threads: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> list[PrecisionScore]:
    """Score tokens [T] with a token model, from a zero state, in each precision.

    tokens: ids below the vocabulary size, T at least 2. threads: the most that a step may use.
    progress: called with the number of tokens of each piece that all precisions have scored.
    Raises ValueError if a precision is unknown or the text too short.
    """
    if len(tokens) < 2:
        raise ValueError(f"tokens: got {len(tokens)}, expected at least 2")
    runs = [_Run(file, precision, threads) for precision in precisions]
    # Piece by piece in turn, so that whatever else the machine does meanwhile slows all alike.
    for start in range(0, len(tokens), PIECE):
        piece = tokens[start : start + PIECE]
        for run in runs:
            run.score(piece)
        progress(len(piece))
    return [run.result() for run in runs]
