"""The columns of one batch: what the kernel reads and writes for every lane.

A lane is one session's part of a batch: a slot, one or more consecutive inputs, and what is asked for after
the last of them. Columns are allocated once and filled anew for every batch; what only some answers have,
logits, lists and scores, lies in a pool that is as long as a batch asks for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.memory import address_of
from keepgate_kernels.lane import ABSENT, LANE, LANE_BYTES, PACKER
from keepgate_kernels.sampling import Sampling
from keepgate_kernels.spec import ModelSpec, TokenInput

KEPT_POOL = 1 << 20
"""Numbers, 4 MiB, up to which a pool is kept though a batch used little of it."""
USED_SHARE = 4
"""A larger pool is kept while batches use more than one part in this many."""

BATCH = np.dtype(
    [("lanes", "<i8"), ("tokens", "<i8"), ("features", "<i8"), ("pool", "<i8"), ("inputs", "<i8")]
)
"""What a kernel is called with: the addresses of `Batch`'s arrays, and how many inputs there may be."""


class Batch(NamedTuple):
    """Arrays of a batch of up to B lanes and I inputs in all.

    lanes: LANE [B]; tokens: uint32 [I] and features: float32 [I, K], one of them used; pool: float32.
    """

    lanes: NDArray[np.void]
    tokens: NDArray[np.uint32]
    features: NDArray[np.float32]
    pool: NDArray[np.float32]


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
            np.zeros(1, np.float32),
        )
        self._record = np.zeros(1, BATCH)
        self.address = address_of(self._record)
        self._point_to_arrays()
        lanes = self.batch.lanes
        self._tokens, self._log_probabilities = lanes["token"], lanes["log_probability"]
        self._finite = lanes["finite"]
        self._positions = lanes["position"]
        self._records = lanes.view(np.uint8).data
        self._count = 0
        self._inputs = 0
        self._pooled = 0

    def __len__(self) -> int:
        return self._count

    @property
    def inputs(self) -> int:
        """Inputs of all lanes together."""
        return self._inputs

    @property
    def pooled(self) -> int:
        """Numbers of `batch.pool` that the lanes use."""
        return self._pooled

    @property
    def room(self) -> int:
        """Inputs that one more lane may have; 0 if no lane fits."""
        return 0 if self._count == self.max_lanes else self.max_inputs - self._inputs

    def clear(self) -> None:
        """Forget all lanes and their answers, and memory that only a larger batch before them needed."""
        size = self.batch.pool.size
        if size > KEPT_POOL and self._pooled * USED_SHARE < size:
            self._replace_pool(max(self._pooled, 1))
        self._count = 0
        self._inputs = 0
        self._pooled = 0

    def add(
        self,
        slot: int,
        inputs: NDArray[np.uint32] | NDArray[np.float32],
        *,
        position: int,
        sampling: Sampling,
        predict: bool = True,
        score: bool = False,
        top_k: int = 0,
        logits: bool = False,
    ) -> int:
        """Append a lane and return its index. A slot may be in a batch once.

        inputs: uint32 [T] token ids below V, or finite float32 [T, K]; T from 1 to `room`.
        position: the session's position after these inputs; it keys the draw.
        predict: compute the head after the last input: a token, or outputs. With it, in token models,
        top_k: how many of the most probable tokens to list, up to V, and logits: whether to keep them.
        score: the log-probability of every input, given those before it (token models).
        Raises ValueError if the lane does not fit. Values of the inputs are the caller's to check.
        """
        steps = len(inputs)
        if not 0 < steps <= self.max_inputs - self._inputs or self._count == self.max_lanes:
            raise ValueError(f"inputs: got {steps}, expected 1 to {self.room}")
        if score and not self.takes_tokens:
            raise ValueError("score: the model takes features, expected a token model")
        if (top_k or logits) and not (predict and self.takes_tokens):
            raise ValueError("top_k, logits: expected a token model and a lane that predicts")
        if not 0 <= top_k <= self.head_size:
            raise ValueError(f"top_k: got {top_k}, expected 0 to the vocabulary size, {self.head_size}")
        begin = self._pooled
        outputs = predict and not self.takes_tokens
        top_begin = begin + (self.head_size if logits or outputs else 0)
        scores_begin = top_begin + 2 * top_k
        end = scores_begin + (steps if score else 0)
        if end != begin:
            self._pool_up_to(end)
        index, offset = self._count, self._inputs
        store = self.batch.tokens if self.takes_tokens else self.batch.features
        if steps == 1:  # a slice takes NumPy several times as long
            store[offset] = inputs[0]
        else:
            store[offset : offset + steps] = inputs
        PACKER.pack_into(
            self._records,
            index * LANE_BYTES,
            *(slot, offset, steps, position),
            begin if logits else ABSENT,
            begin if outputs else ABSENT,
            top_begin if top_k else ABSENT,
            scores_begin if score else ABSENT,
            *sampling.as_record(),
            *(top_k, 0, 0.0, predict, score, True),
        )
        self._count += 1
        self._inputs += steps
        return index

    def fill(
        self,
        records: NDArray[np.void],
        inputs: NDArray[np.uint32] | NDArray[np.float32],
        positions: NDArray[np.uint64],
    ) -> None:
        """Have one predicting lane for each of B sessions; there must be no lanes yet.

        records: LANE [B], as `one_input_each` made them; inputs: uint32 [B] token ids below V, or finite
        float32 [B, K]: one for each lane; positions [B]: the sessions', after the input. As `add` for each,
        but that it costs as little for a thousand. Raises ValueError if they do not fit.
        """
        count = len(records)
        if self._count or not 1 <= count <= min(self.max_lanes, self.max_inputs):
            fits = 0 if self._count else min(self.max_lanes, self.max_inputs)
            raise ValueError(f"records: got {count}, expected 1 to {fits}")
        if not self.takes_tokens:
            self._pool_up_to(count * self.head_size)
        store = self.batch.tokens if self.takes_tokens else self.batch.features
        store[:count] = inputs
        self._records[: count * LANE_BYTES] = records.view(np.uint8).data
        self._positions[:count] = positions
        self._count = self._inputs = count

    def _pool_up_to(self, size: int) -> None:
        self._pooled = size
        pool = self.batch.pool
        if size > pool.size:  # there are no answers yet that would have to be copied
            self._replace_pool(max(size, 2 * pool.size))

    def _replace_pool(self, size: int) -> None:
        self.batch = self.batch._replace(pool=np.zeros(size, np.float32))
        self._point_to_arrays()

    def _point_to_arrays(self) -> None:
        batch = self.batch
        addresses = [address_of(array) for array in batch]
        self._record[0] = (*addresses, self.max_inputs)

    @property
    def all_finite(self) -> bool:
        """Whether `is_finite` holds for every lane."""
        if self._count == 1:
            return bool(self._finite.item(0))
        return bool(self._finite[: self._count].all())

    def is_finite(self, index: int) -> bool:
        """Whether all numbers that the tick met in the lane were finite; if not, its answers mean nothing.

        Looked at: logits or outputs of a predicting lane, scores of a scoring lane.
        """
        return bool(self._finite[index])

    @property
    def finite(self) -> NDArray[np.bool_]:
        """`is_finite` of all lanes [B]: a view."""
        return self._finite[: self._count]

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """`token` of all lanes [B]: a view, gone with the next batch."""
        return self._tokens[: self._count]

    @property
    def log_probabilities(self) -> NDArray[np.float32]:
        """`log_probability` of all lanes [B]: a view, gone with the next batch."""
        return self._log_probabilities[: self._count]

    @property
    def filled_outputs(self) -> NDArray[np.float32]:
        """`outputs` of all lanes [B, N] of a batch that was made by `fill`: a view, gone with the next."""
        return self.batch.pool[: self._count * self.head_size].reshape(self._count, self.head_size)

    def token(self, index: int) -> int:
        """The drawn token of a predicting lane."""
        return int(self._tokens.item(index))

    def log_probability(self, index: int) -> float:
        """Natural log-probability of that token under the model itself."""
        return float(self._log_probabilities.item(index))

    def top(self, index: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """The top_k most probable tokens [k], best first, and their log-probabilities [k].

        Views, gone with the next batch. Raises ValueError if the lane was added without top_k.
        """
        count = int(self.batch.lanes[index]["top_count"])
        both = self._pooled_at(index, "top", 2 * count)
        return both[:count].view(np.uint32), both[count:]

    def logits(self, index: int) -> NDArray[np.float32]:
        """Logits [V] of a predicting lane of a token model: a view, gone with the next batch.

        Raises ValueError if the lane was added without `logits`.
        """
        return self._pooled_at(index, "logits", self.head_size)

    def outputs(self, index: int) -> NDArray[np.float32]:
        """Outputs [N] of a predicting lane of a feature model: a view, gone with the next batch.

        Raises ValueError if the lane does not predict.
        """
        return self._pooled_at(index, "outputs", self.head_size)

    def scores(self, index: int) -> NDArray[np.float32]:
        """Log-probability of each input [T] of a scoring lane: a view, gone with the next batch.

        Raises ValueError if the lane was added without `score`.
        """
        return self._pooled_at(index, "scores", int(self.batch.lanes[index]["steps"]))

    def _pooled_at(self, index: int, field: str, size: int) -> NDArray[np.float32]:
        first = int(self.batch.lanes[index][field])
        if first == ABSENT:
            raise ValueError(f"{field}: lane {index} was added without them")
        return self.batch.pool[first : first + size]
