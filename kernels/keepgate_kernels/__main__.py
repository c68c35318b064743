"""`python -m keepgate_kernels`: compile every kernel into the cache, and say what that took.

A container's image runs this once, so that its servers start without a compiler's wait.
"""

from __future__ import annotations

import time

import numpy as np

from keepgate_kernels import (
    PRECISIONS,
    CategoricalHead,
    CellKind,
    CellSpec,
    LayerSpec,
    ModelSpec,
    Network,
    TokenInput,
)
from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.jit import cache_directory


def main() -> None:
    """Compile for this processor; one model is enough, since all models share their kernels."""
    spec = ModelSpec(TokenInput(2, 1), (LayerSpec(CellSpec(CellKind.LSTM), 1),), CategoricalHead(2))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in spec.tensors().items()}
    for precision in PRECISIONS:
        begin = time.perf_counter()
        Network(spec, tensors, slots=1, precision=precision, threads=2).compile()
        seconds = time.perf_counter() - begin
        print(f"{precision} kernels for {RUNG.name} ready in {seconds:.1f} s")
    print(f"in {cache_directory()}")


if __name__ == "__main__":
    main()
