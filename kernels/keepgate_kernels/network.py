"""A loaded model on the CPU: weights, slots, and one call for a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.step import Scratch, make_scratch, tick
from keepgate_kernels.lanes import Lanes
from keepgate_kernels.sampling import Sampling, sample, top_tokens
from keepgate_kernels.slots import Slots
from keepgate_kernels.spec import CategoricalHead, ModelSpec, TokenInput
from keepgate_kernels.weights import H_COLUMNS, INNER, OUTPUT, X_COLUMNS, check_tensors, pack
from keepgate_kernels.weights import fingerprint as weights_fingerprint


class Network:
    """Packed weights and the state of up to `slots` sessions.

    tensors: canonical float32 arrays with the names and shapes of `spec.tensors()`.
    Raises WeightsError if they do not fit the spec.
    """

    precision = "fp32"

    def __init__(self, spec: ModelSpec, tensors: Mapping[str, NDArray[np.float32]], *, slots: int) -> None:
        check_tensors(spec, tensors)
        self.spec = spec
        self.fingerprint = weights_fingerprint(spec, tensors)
        self.weights = pack(spec, tensors)
        self.slots = Slots(spec, slots)
        self._scratch = threading.local()

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return self.weights.flat.nbytes

    @property
    def flops_per_step(self) -> int:
        """Operations of one input's matrix products, two for each multiply-add; for estimates of cost."""
        layers = self.weights.plan[1:-1]
        recurrent = (layers[:, OUTPUT] * layers[:, H_COLUMNS]).sum()
        inputs = (layers[:, INNER] * layers[:, X_COLUMNS].clip(min=0)).sum()
        head = self.spec.layers[-1].output_size * self.spec.head.size
        return 2 * (int(recurrent + inputs) + head)

    def step(self, lanes: Lanes) -> None:
        """Apply the lanes' inputs to their slots and fill in their answers: one jitted call, no GIL.

        Threads may step at the same time with lanes of their own and slots that are not shared.
        """
        tick(self.weights, self.slots.state, lanes.batch, len(lanes), self._thread_scratch())

    def _thread_scratch(self) -> Scratch:
        scratch: Scratch | None = getattr(self._scratch, "arrays", None)
        if scratch is None:
            scratch = make_scratch(self.weights.plan)
            self._scratch.arrays = scratch
        return scratch

    def hidden(self, slot: int) -> list[NDArray[np.float32]]:
        """Copies of the hidden state of every layer, float32 [P] each."""
        return [
            self.slots.state.h[index, slot, : layer.output_size].copy()
            for index, layer in enumerate(self.spec.layers)
        ]

    def compile(self) -> float:
        """Run every kernel once on a slot of its own; returns the seconds that took.

        Compiles what the cache on disk does not hold. Needs one free slot.
        """
        begin = time.perf_counter()
        slot = self.slots.allocate()
        if slot is None:
            raise RuntimeError("compile needs a free slot, and all are taken")
        takes_tokens = isinstance(self.spec.input, TokenInput)
        inputs: NDArray[np.uint32] | NDArray[np.float32] = (
            np.zeros(1, np.uint32) if takes_tokens else np.zeros((1, self.spec.input_size), np.float32)
        )
        lanes = Lanes(self.spec, max_lanes=1, max_inputs=1)
        lanes.add(slot, inputs, position=1, sampling=Sampling(), score=takes_tokens)
        self.step(lanes)
        if isinstance(self.spec.head, CategoricalHead):
            sample(lanes.logits(0), 1, Sampling())
            top_tokens(lanes.logits(0), 1)
        self.slots.release(slot)
        return time.perf_counter() - begin
