"""What is measured: one layer whose x is as wide as it is, a step of many sessions or a sequence of few."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from keepgate_kernels import CellKind, CellSpec, FeatureInput, LayerSpec, LinearHead, ModelSpec, reference

WIDTHS = (256, 512, 1024, 2048)
BATCHES = (1, 16, 64, 256, 1024, 4096)
SEQUENCE_BATCHES, SEQUENCE_STEPS = (1, 16), 1024
SEQUENCE_WIDTHS = (256, 512, 768, 1024)
CELLS = ("lstm", "gru")
PRECISIONS = ("fp32", "bf16")
"""That cuDNN has too; int8 is ours alone."""
CHECKED = 4
"""Sessions that are compared with the oracle; of sequences one, since the oracle takes seconds for it."""
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
        """float32 [batch, steps, width]. A session has the same in every batch."""
        shape = self.batch, self.steps, self.width
        return np.random.default_rng(self.width).standard_normal(shape).astype(np.float32)

    @property
    def checked(self) -> int:
        """How many sessions are compared with the oracle, the first ones."""
        return 1 if self.steps > 1 else min(CHECKED, self.batch)

    @property
    def operations(self) -> float:
        """Of all products, two for each multiply-add."""
        return 4.0 * GATES[self.cell] * self.width**2 * self.batch * self.steps

    @property
    def least_bytes(self) -> float:
        """Weights once, x of every step once, float32 states read once and written once: what a sequence
        reads again may stay where it is computed with."""
        weights = 2 * GATES[self.cell] * self.width**2 * BYTES[self.precision]
        state = self.width * 4 * (4 if self.cell == "lstm" else 2)
        row = self.width * BYTES[self.precision] * self.steps + state
        return float(weights + row * self.batch)


def expected(problem: Problem, session: int) -> Any:
    """h of a session after all its steps, float64 [width], by the oracle."""
    return _expected(problem._replace(precision="fp32", batch=session + 1))


@functools.cache
def _expected(problem: Problem) -> Any:
    """Of the last session of a batch."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in problem.tensors().items()}
    _, ((h, _),) = reference.run(problem.spec, tensors, problem.inputs()[-1])
    return h


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
