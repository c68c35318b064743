"""The columns of one batch: what the kernel reads and writes for every lane.

A lane is one session's part of a batch: a slot, one or more consecutive inputs, and how to draw the token
that follows. Columns are allocated once and filled anew for every batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.sampling import OPTIONS, Sampling
from keepgate_kernels.spec import ModelSpec, TokenInput
from keepgate_kernels.weights import padded

LANE = np.dtype(
    [
        ("slot", "<i8"),
        ("offset", "<i8"),
        ("steps", "<i8"),
        ("position", "<u8"),
        *OPTIONS,
        ("predict", "?"),
        ("score", "?"),
        ("token", "<u4"),
        ("log_probability", "<f4"),
    ],
    align=True,
)
"""offset: the lane's first row in the inputs; position: the session's, after the inputs; token and
log_probability are answers."""


class Batch(NamedTuple):
    """Arrays of a batch of up to B lanes and I inputs in all.

    lanes: LANE [B]; tokens: uint32 [I] and features: float32 [I, K], one of them used; scores: float32 [I];
    values: float32 [B, padded N], the head's logits or outputs.
    """

    lanes: NDArray[np.void]
    tokens: NDArray[np.uint32]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    values: NDArray[np.float32]


class Lanes:
    """A batch under construction, and its answers. One thread at a time; not shared between batches."""

    def __init__(self, spec: ModelSpec, max_lanes: int = 1024, max_inputs: int = 16384) -> None:
        takes_tokens = isinstance(spec.input, TokenInput)
        self.max_lanes = max_lanes
        self.max_inputs = max_inputs
        self.takes_tokens = takes_tokens
        self.head_size = spec.head.size
        self.batch = Batch(
            np.zeros(max_lanes, LANE),
            np.zeros(max_inputs if takes_tokens else 0, np.uint32),
            np.zeros((0 if takes_tokens else max_inputs, spec.input_size), np.float32),
            np.zeros(max_inputs, np.float32),
            np.zeros((max_lanes, padded(spec.head.size)), np.float32),
        )
        self._count = 0
        self._inputs = 0

    def __len__(self) -> int:
        return self._count

    @property
    def inputs(self) -> int:
        """Inputs of all lanes together."""
        return self._inputs

    @property
    def room(self) -> int:
        """Inputs that one more lane may have; 0 if no lane fits."""
        return 0 if self._count == self.max_lanes else self.max_inputs - self._inputs

    def clear(self) -> None:
        """Forget all lanes and their answers."""
        self._count = 0
        self._inputs = 0

    def add(
        self,
        slot: int,
        inputs: NDArray[np.uint32] | NDArray[np.float32],
        *,
        position: int,
        sampling: Sampling,
        predict: bool = True,
        score: bool = False,
    ) -> int:
        """Append a lane and return its index. A slot may be in a batch once.

        inputs: uint32 [T] token ids below V, or finite float32 [T, K]; T from 1 to `room`.
        position: the session's position after these inputs; it keys the draw.
        predict: compute the head after the last input. score: the log-probability of every input, given
        those before it (token models).
        Raises ValueError if the lane does not fit. Values of the inputs are the caller's to check.
        """
        steps = len(inputs)
        if not 1 <= steps <= self.room:
            raise ValueError(f"inputs: got {steps}, expected 1 to {self.room}")
        if score and not self.takes_tokens:
            raise ValueError("score: the model takes features, expected a token model")
        index, offset = self._count, self._inputs
        store = self.batch.tokens if self.takes_tokens else self.batch.features
        store[offset : offset + steps] = inputs
        record = (slot, offset, steps, position, *sampling.as_record(), predict, score, 0, 0.0)
        self.batch.lanes[index] = record
        self._count += 1
        self._inputs += steps
        return index

    def token(self, index: int) -> int:
        """The drawn token of a predicting lane."""
        return int(self.batch.lanes["token"][index])

    def log_probability(self, index: int) -> float:
        """Natural log-probability of that token under the model itself."""
        return float(self.batch.lanes["log_probability"][index])

    def logits(self, index: int) -> NDArray[np.float32]:
        """Logits [V] of a predicting lane: a view, gone with the next batch."""
        return self.batch.values[index, : self.head_size]

    def outputs(self, index: int) -> NDArray[np.float32]:
        """Outputs [N] of a predicting lane of a feature model: a view, gone with the next batch."""
        return self.batch.values[index, : self.head_size]

    def scores(self, index: int) -> NDArray[np.float32]:
        """Log-probability of each input [T] of a scoring lane: a view, gone with the next batch."""
        lane = self.batch.lanes[index]
        offset = int(lane["offset"])
        return self.batch.scores[offset : offset + int(lane["steps"])]
