"""What is measured: one layer whose x is as wide as it is, a step of many sessions or a sequence of few."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keepgate_kernels import CellKind, CellSpec, FeatureInput, LayerSpec, LinearHead, ModelSpec

WIDTHS = (256, 512, 1024, 2048)
BATCHES = (1, 16, 64, 256, 1024, 4096)
SEQUENCE_BATCHES, SEQUENCE_STEPS = (1, 16), 1024
SEQUENCE_WIDTHS = (256, 512, 768, 1024)
CELLS = ("lstm", "gru")
PRECISIONS = ("fp32", "bf16")
"""That cuDNN has too; int8 is ours alone."""
GATES = {"lstm": 4, "gru": 3}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


class Problem(NamedTuple):
    """steps: 1, or of a sequence. All random numbers follow from the rest."""

    cell: str
    precision: str
    width: int
    batch: int
    steps: int = 1

    @property
    def spec(self) -> ModelSpec:
        """One layer and a head of one output."""
        layer = LayerSpec(CellSpec(CellKind(self.cell)), self.width)
        return ModelSpec(FeatureInput(self.width), (layer,), LinearHead(1))

    def tensors(self) -> dict[str, Any]:
        """Of the size that training starts from."""
        rng = np.random.default_rng(self.width)
        return {
            name: (rng.standard_normal(shape) * 0.7 / np.sqrt(shape[-1])).astype(np.float32)
            for name, shape in self.spec.tensors().items()
        }

    def inputs(self) -> Any:
        """float32 [batch, steps, width]."""
        shape = self.batch, self.steps, self.width
        return np.random.default_rng(self.batch).standard_normal(shape).astype(np.float32)

    @property
    def operations(self) -> float:
        """Of all products, two for each multiply-add."""
        return 4.0 * GATES[self.cell] * self.width**2 * self.batch * self.steps

    @property
    def least_bytes(self) -> float:
        """Weights once, of a step: of a sequence they may stay where they are read. x and h once, new state
        once."""
        weights = 2 * GATES[self.cell] * self.width**2 * BYTES[self.precision]
        state = self.width * 4 * (4 if self.cell == "lstm" else 2)
        rows = (self.width * BYTES[self.precision] + state) * self.batch * self.steps
        return float(weights + rows)


def steps() -> list[Problem]:
    """The grid of steps of many sessions."""
    return [Problem(c, p, w, b) for c in CELLS for p in PRECISIONS for w in WIDTHS for b in BATCHES]


def sequences() -> list[Problem]:
    """The grid of sequences."""
    return [
        Problem(c, p, w, b, SEQUENCE_STEPS)
        for c in CELLS
        for p in PRECISIONS
        for w in SEQUENCE_WIDTHS
        for b in SEQUENCE_BATCHES
    ]
