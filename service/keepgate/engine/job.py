"""A unit of work: consecutive inputs of one session, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepgate.errors import RequestError
from keepgate.request import NO_OPTIONS, Kind, Options


@dataclass(slots=True)
class Prediction:
    """What the model says after a job's last input.

    Token models: token, log_probability, and if wanted top (ids uint32 [k], log-probabilities
    float32 [k]) and logits float32 [V]. Feature models: outputs float32 [N]. hidden, if wanted:
    float32 [P] a layer; state: as `Slots.read` returns it. position is the session's after the input.
    """

    position: int
    token: int = 0
    log_probability: float = 0.0
    top: tuple[NDArray[np.uint32], NDArray[np.float32]] | None = None
    logits: NDArray[np.float32] | None = None
    outputs: NDArray[np.float32] | None = None
    hidden: list[NDArray[np.float32]] | None = None
    state: bytes | None = None


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
    them. slot: where the state is; it may be set later, before the engine gets the job.

    A job ends with `reply` or `error`. `tag` is the submitter's. quiet: nothing is predicted.
    keep_state: `state` gets the state after the inputs, as `Slots.read` returns it. submitted: when the
    engine got it, in seconds of `time.perf_counter`. deadline: by then its first batch must have begun, or
    it is not done at all, in the same seconds; 0 is never. alone: nothing else may be on its way, so that
    there is nothing to wait for.
    """

    __slots__ = (
        "_callbacks",
        "alone",
        "deadline",
        "error",
        "inputs",
        "keep_state",
        "kind",
        "offset",
        "options",
        "quiet",
        "reply",
        "scores",
        "settled",
        "slot",
        "start",
        "state",
        "submitted",
        "tag",
    )

    def __init__(
        self,
        inputs: NDArray[Any],
        start: int,
        *,
        kind: Kind = Kind.STEP,
        options: Options = NO_OPTIONS,
        slot: int = -1,
        quiet: bool = False,
        tag: Any = None,
        alone: bool = False,
        deadline: float = 0.0,
    ) -> None:
        self.slot = slot
        self.inputs = inputs
        self.start = start
        self.kind = kind
        self.options = options
        self.quiet = quiet
        self.tag = tag
        self.alone = alone
        self.deadline = deadline
        self.offset = 0
        self.keep_state = options.wants.state
        self.state: bytes | None = None
        self.scores: list[NDArray[np.float32]] = []
        self.reply: Prediction | Scores | None = None
        self.error: RequestError | None = None
        self.settled = False
        self.submitted = 0.0
        self._callbacks: list[Callable[[Job], None]] = []

    @property
    def end(self) -> int:
        """The position after the inputs."""
        return self.start + len(self.inputs)

    @property
    def remaining(self) -> int:
        """Inputs not yet applied."""
        return len(self.inputs) - self.offset

    def when_done(self, callback: Callable[[Job], None]) -> None:
        """Call back once the job is settled: at once if it is."""
        if self.settled:
            callback(self)
        else:
            self._callbacks.append(callback)

    def settle(self) -> None:
        """Tell those who wait, now that the answer is there and lasts as long as it should.

        The engine sets `reply` or `error` first.
        """
        self.settled = True
        if self._callbacks:
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback(self)

    async def wait(self) -> Prediction | Scores:
        """The reply. Cancelling the wait leaves the job as it is. Raises the job's error."""
        if not self.settled:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._callbacks.append(lambda _: None if waiter.done() else waiter.set_result(None))
            await waiter
        if self.error is not None:
            # A fresh copy of the traceback for each of those who wait.
            raise self.error.with_traceback(None)
        if self.reply is None:
            raise RuntimeError("a job was settled with neither reply nor error")
        return self.reply
