"""A loaded model on the CPU: weights, slots, and one call for a batch."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.crew import Crew
from keepgate_kernels.cpu.memory import address_of
from keepgate_kernels.cpu.native import native
from keepgate_kernels.cpu.packing import pack
from keepgate_kernels.cpu.phase import TILE
from keepgate_kernels.cpu.step import tick
from keepgate_kernels.cpu.workspace import Workspace, network_record
from keepgate_kernels.lanes import Lanes
from keepgate_kernels.sampling import Sampling
from keepgate_kernels.slots import Slots
from keepgate_kernels.spec import ModelSpec, TokenInput
from keepgate_kernels.weights import check_precision, check_tensors
from keepgate_kernels.weights import fingerprint as weights_fingerprint

LEAST_SHARED_SECONDS = 250e-6
"""A step that takes one thread less than this is not worth waking another for, which takes 30 to 80 us."""

READ_BYTES_PER_SECOND = 30e9
OPERATIONS_PER_SECOND = {"fp32": 100e9, "bf16": 100e9, "int8": 400e9}
"""What one core does of either, about; for that decision only."""


class Network:
    """Packed weights and the state of up to `slots` sessions.

    tensors: canonical float32 arrays with the names and shapes of `spec.tensors()`. precision: one of
    PRECISIONS, how weights are held and multiplied. threads: how many a heavy step may use.
    Raises WeightsError if the tensors do not fit the spec, ValueError for another argument.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        slots: int,
        precision: str = "fp32",
        threads: int = 1,
    ) -> None:
        check_precision(precision)
        if threads < 1:
            raise ValueError(f"threads: got {threads}, expected at least 1")
        check_tensors(spec, tensors)
        self.spec = spec
        self.precision = precision
        self.fingerprint = weights_fingerprint(spec, tensors)
        self.slots = Slots(spec, slots)
        self._packed = pack(spec, tensors, precision)
        self._native = native(precision)
        self._record = network_record(self._native, self._packed, self.slots.state)
        self._address = address_of(self._record)
        self._workspaces = threading.local()
        self._crew = Crew(threads - 1) if threads > 1 else None
        products = sum(math.prod(shape) for shape in spec.tensors().values() if len(shape) == 2)
        if isinstance(spec.input, TokenInput):  # folded, or looked up
            products -= spec.input.vocabulary_size * spec.input.embedding_size
        self._flops_per_step = 2 * products
        # Of one input, alone in its pass over the weights; more of them take no longer each.
        self._most_seconds = max(
            self._packed.weights.nbytes / READ_BYTES_PER_SECOND,
            self._flops_per_step / OPERATIONS_PER_SECOND[precision],
        )

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return self._packed.weights.nbytes

    @property
    def flops_per_step(self) -> int:
        """Operations of one input's matrix products, two for each multiply-add; for estimates of cost."""
        return self._flops_per_step

    def step(self, lanes: Lanes) -> None:
        """Apply the lanes' inputs to their slots and fill in their answers: one jitted call, no GIL.

        Threads may step at the same time with lanes of their own and slots that are not shared.
        """
        workspace = self._workspace()
        if (
            self._crew is None
            or lanes.inputs * self._most_seconds < LEAST_SHARED_SECONDS
            or self._seconds(lanes) < LEAST_SHARED_SECONDS
        ):
            tick(self._address, lanes.address, workspace.address, len(lanes))
            return
        with self._crew.joined(workspace):
            tick(self._address, lanes.address, workspace.address, len(lanes))

    def _seconds(self, lanes: Lanes) -> float:
        """About how long one thread will take: what the products need, or reading the weights for them."""
        passes = lanes.inputs / min(len(lanes), TILE)
        reading = passes * self.weight_bytes / READ_BYTES_PER_SECOND
        return max(reading, lanes.inputs * self.flops_per_step / OPERATIONS_PER_SECOND[self.precision])

    def _workspace(self) -> Workspace:
        try:
            workspace: Workspace = self._workspaces.own
        except AttributeError:
            workspace = self._workspaces.own = Workspace(self._packed, self.precision)
        return workspace

    def hidden(self, slot: int) -> list[NDArray[np.float32]]:
        """Copies of the hidden state of every layer, float32 [P] each."""
        return [
            self.slots.state.h[index, slot, : layer.output_size].copy()
            for index, layer in enumerate(self.spec.layers)
        ]

    def takes(self, state: bytes) -> bool:
        """Whether the network can go on from a state, as `Slots.read` returns it, that is not of its own
        making.

        In int8 every h of a bounded layer must be in [-1, 1], where its scale is.
        """
        numbers = np.frombuffer(state, "<f4")
        first = 0
        for layer in self.spec.layers:
            h = numbers[first : first + layer.output_size]
            if self.precision == "int8" and layer.is_bounded and not (np.abs(h) <= 1).all():
                return False
            first += layer.output_size + layer.cell_state_size
        return True

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
        if self._crew is not None:
            self._crew.compile(self._workspace())
        self.slots.release(slot)
        return time.perf_counter() - begin
