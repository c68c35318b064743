"""A unit of work: consecutive inputs of one session, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keepgate_kernels import Sampling
from numpy.typing import NDArray

from keepgate.errors import RequestError

GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Wants:
    """What a prediction carries beyond the token or the outputs."""

    top_k: int = 0
    logits: bool = False
    hidden: bool = False


NOTHING_MORE = Wants()


@dataclass(slots=True)
class Prediction:
    """What the model says after a job's last input.

    Token models: token, log_probability, and if wanted top (ids uint32 [k], log-probabilities
    float32 [k]) and logits float32 [V]. Feature models: outputs float32 [N]. hidden, if wanted:
    float32 [P] a layer. position is the session's after the input.
    """

    position: int
    token: int = 0
    log_probability: float = 0.0
    top: tuple[NDArray[np.uint32], NDArray[np.float32]] | None = None
    logits: NDArray[np.float32] | None = None
    outputs: NDArray[np.float32] | None = None
    hidden: list[NDArray[np.float32]] | None = None


@dataclass(slots=True)
class Scores:
    """Log-probabilities float32 [scored] of a job's tokens, natural; position is the one after
    them.

    The first token of a sequence has nothing before it and is not scored.
    """

    position: int
    log_probabilities: NDArray[np.float32]


class Job:
    """inputs: uint32 [T] token ids or float32 [T, K], valid; T >= 1. start: the position before
    them.

    A job ends with `reply` or `error`. `tag` is the submitter's.
    """

    __slots__ = (
        "_callbacks",
        "error",
        "inputs",
        "offset",
        "reply",
        "sampling",
        "score",
        "scores",
        "slot",
        "start",
        "tag",
        "wants",
    )

    def __init__(
        self,
        slot: int,
        inputs: NDArray[Any],
        start: int,
        *,
        sampling: Sampling = GREEDY,
        wants: Wants = NOTHING_MORE,
        score: bool = False,
        tag: Any = None,
    ) -> None:
        self.slot = slot
        self.inputs = inputs
        self.start = start
        self.sampling = sampling
        self.wants = wants
        self.score = score
        self.tag = tag
        self.offset = 0
        self.scores: list[NDArray[np.float32]] = []
        self.reply: Prediction | Scores | None = None
        self.error: RequestError | None = None
        self._callbacks: list[Callable[[Job], None]] = []

    @property
    def remaining(self) -> int:
        """Inputs not yet applied."""
        return len(self.inputs) - self.offset

    @property
    def done(self) -> bool:
        return self.reply is not None or self.error is not None

    def when_done(self, callback: Callable[[Job], None]) -> None:
        """Call back once the job is done: at once if it is."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def settle(self) -> None:
        """Tell those who wait. The engine sets `reply` or `error` first."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def wait(self) -> Prediction | Scores:
        """The reply. Cancelling the wait leaves the job as it is. Raises the job's error."""
        if not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._callbacks.append(lambda _: None if waiter.done() else waiter.set_result(None))
            await waiter
        if self.error is not None:
            # A fresh copy of the traceback for each of those who wait.
            raise self.error.with_traceback(None)
        if self.reply is None:
            raise RuntimeError("a job was settled with neither reply nor error")
        return self.reply
