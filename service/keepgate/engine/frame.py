"""One input for each of many sessions, as columns: Python touches the frame, never a session."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from keepgate_kernels import Lanes, Network
from numpy.typing import NDArray

from keepgate.engine.meter import Meter


class Frame:
    """records: lanes as `one_input_each` makes them, of slots that nothing else steps; inputs: uint32 [B]
    token ids or float32 [B, K], valid; ends: uint64 [B], the positions after them; kept: rows whose state is
    wanted then.

    When the engine is done, it has `error`, or these answers: tokens uint32 [B] and log_probabilities float32
    [B], or outputs float32 [B, N]; finite bool [B], and where that is False the others mean nothing;
    is_finite: all of those; states: of the kept rows, as `Slots.read` returns them. Then `done` is called.
    """

    __slots__ = (
        "_submitted",
        "done",
        "ends",
        "error",
        "finite",
        "inputs",
        "is_finite",
        "kept",
        "log_probabilities",
        "outputs",
        "records",
        "states",
        "tokens",
    )

    def __init__(
        self,
        records: NDArray[np.void],
        inputs: NDArray[np.uint32] | NDArray[np.float32],
        ends: NDArray[np.uint64],
        kept: NDArray[np.intp],
        done: Callable[[], None],
    ) -> None:
        self.records = records
        self.inputs = inputs
        self.ends = ends
        self.kept = kept
        self.done = done
        self.tokens: NDArray[np.uint32] | None = None
        self.log_probabilities: NDArray[np.float32] | None = None
        self.outputs: NDArray[np.float32] | None = None
        self.finite: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.is_finite = False
        self.states: list[bytes] = []
        self.error: Exception | None = None
        self._submitted = time.perf_counter()

    def __len__(self) -> int:
        return len(self.records)

    def fill(self, lanes: Lanes) -> None:
        """Take all lanes."""
        lanes.fill(self.records, self.inputs, self.ends)

    def take(self, network: Network, lanes: Lanes) -> None:
        """Copy the answers, before the lanes and the slots are used again."""
        self.finite = lanes.finite.copy()
        self.is_finite = bool(self.finite.all())
        if lanes.takes_tokens:
            self.tokens = lanes.tokens.copy()
            self.log_probabilities = lanes.log_probabilities.copy()
        else:
            self.outputs = lanes.filled_outputs.copy()
        if len(self.kept):
            self.states = network.slots.read_many(self.records["slot"][self.kept])

    def count(self, meter: Meter, begun: float | None) -> None:
        """Note in the model's counters that the frame is over, or, with the time, that it is being begun."""
        if begun is not None:
            meter.queued += (begun - self._submitted) * len(self)
            return
        well = 0 if self.error is not None else int(np.count_nonzero(self.finite))
        meter.succeeded += well
        meter.failed += len(self) - well
        meter.inputs += well
        meter.answered.add(time.perf_counter() - self._submitted, well)
