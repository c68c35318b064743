"""What is measured: one step of one recurrent layer for a batch of sessions, and who takes part.

Letters: B sessions of the batch, H hidden units, which is also the input size, G gates of the cell.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from keepgate_kernels import CellKind, CellSpec, FeatureInput, LayerSpec, LinearHead, ModelSpec, reference
from keepgate_kernels.spec import GATES, layer_tensors
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 2e-2}
"""Largest error of a component of h' that a contender of this precision may have. h is within (-1, 1), and
the tensors of `Problem.random` give the sums of a unit a standard deviation of about 0.5."""

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of a weight."""

OURS = "Keepgate"
KERNEL = "Keepgate kernel"
"""The same step without the way in from Python."""
STREAMING = "streaming"
PEAK = "peak"
"""Who is no peer: this project, and the machine's limits."""

CHECKED = 4
"""Sessions at either end of the batch whose results are compared with the oracle."""


class UnavailableError(Exception):
    """A library cannot take the step in a precision; the message says why."""


@dataclass(frozen=True)
class Problem:
    """A cell, its size, a batch, and the numbers to compute with.

    tensors: the canonical tensors of `spec`; x [B, H] the inputs; h, c [B, H] the states before the step.
    """

    spec: ModelSpec
    batch: int
    tensors: dict[str, Float32]
    x: Float32
    h: Float32
    c: Float32

    @classmethod
    def random(cls, kind: CellKind, hidden: int, batch: int) -> Problem:
        """A problem of a fixed seed: weights uniform as PyTorch initialises them, x, h, c in (-1, 1)."""
        spec = ModelSpec(FeatureInput(hidden), (LayerSpec(CellSpec(kind), hidden),), LinearHead(1))
        rng = np.random.default_rng([hidden, batch])
        bound = hidden**-0.5
        tensors = {
            name: rng.uniform(-bound, bound, shape).astype(np.float32)
            for name, shape in spec.tensors().items()
        }
        x, h, c = (rng.uniform(-1, 1, (batch, hidden)).astype(np.float32) for _ in range(3))
        return cls(spec, batch, tensors, x, h, c)

    @property
    def kind(self) -> CellKind:
        return self.spec.layers[0].cell.kind

    @property
    def hidden(self) -> int:
        return self.spec.layers[0].hidden_size

    @property
    def has_c(self) -> bool:
        return self.spec.layers[0].cell_state_size > 0

    @property
    def weights(self) -> int:
        """Numbers in the two matrices: G H (H + H)."""
        return 2 * len(GATES[self.kind]) * self.hidden**2

    @property
    def operations(self) -> int:
        """Operations of a step's matrix products, two for each multiply-add."""
        return 2 * self.weights * self.batch

    @property
    def state_bytes(self) -> int:
        """Bytes that come and go besides the weights: x, h and c read, h and c written, in float32."""
        return 4 * self.batch * self.hidden * (5 if self.has_c else 3)

    def layer(self) -> tuple[Float32, Float32, Float32, Float32]:
        """weight_ih [G H, H], weight_hh [G H, H], bias_ih [G H], bias_hh [G H], in PyTorch's gate order."""
        own = layer_tensors(self.tensors, 0)
        return own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"]

    def checked(self) -> list[int]:
        """The sessions whose results are compared: the first and the last few."""
        return sorted({*range(min(CHECKED, self.batch)), *range(max(0, self.batch - CHECKED), self.batch)})

    def oracle(self, session: int, h: Float64, c: Float64) -> tuple[Float64, Float64]:
        """h' and c' [H] of one session by the float64 reference."""
        layer, own = self.spec.layers[0], layer_tensors(self.tensors, 0)
        x = self.x[session].astype(np.float64)
        return reference.cell_step(layer, own, x, h, c if self.has_c else np.empty(0))

    def error(self, h_after: Float32) -> float:
        """Largest error of h' [B, H] after a step from the problem's h and c, over the checked sessions."""
        worst = 0.0
        for session in self.checked():
            h, c = self.h[session].astype(np.float64), self.c[session].astype(np.float64)
            expected, _ = self.oracle(session, h, c)
            worst = max(worst, float(np.abs(h_after[session] - expected).max()))
        return worst


@dataclass(frozen=True)
class Contender:
    """One way to take the step.

    call: takes the step `steps` times, from prebuilt inputs. error: the largest error of h' against the
    oracle. operations: those of a step where they are not the problem's. context: what a series of calls is
    wrapped in, once. note: what a reader must know about the figure.
    """

    library: str
    precision: str
    variant: str
    call: Callable[[], object]
    error: Callable[[], float]
    steps: int = 1
    operations: int | None = None
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.library} {self.precision}"
