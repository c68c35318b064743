"""A loaded model on the CPU: packed weights, slots, and one jitted call for a batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.chosen import RUNG
from keepgate_kernels.cpu.crew import Crew
from keepgate_kernels.cpu.memory import address_of
from keepgate_kernels.cpu.native import native
from keepgate_kernels.cpu.packing import pack
from keepgate_kernels.cpu.phase import TILE
from keepgate_kernels.cpu.slots import CpuSlots
from keepgate_kernels.cpu.step import tick
from keepgate_kernels.cpu.workspace import Workspace, network_record
from keepgate_kernels.lanes import Lanes
from keepgate_kernels.spec import ModelSpec

LEAST_SHARED_SECONDS = 250e-6
"""A step that takes one thread less than this is not worth waking another for, which takes 30 to 80 us."""

READ_BYTES_PER_SECOND = 30e9
OPERATIONS_PER_SECOND = {"fp32": 100e9, "bf16": 100e9, "int8": 400e9}
"""What one core does of either, about; for that decision only."""


class CpuNetwork:
    """The backend of a `Network` on the CPU, with its arguments; flops_per_step: as the network has it."""

    def __init__(
        self,
        spec: ModelSpec,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        slots: int,
        precision: str,
        threads: int,
        flops_per_step: int,
    ) -> None:
        self.slots = CpuSlots(spec, slots)
        self._spec = spec
        self._precision = precision
        self._packed = pack(spec, tensors, precision)
        self._native = native(precision)
        self._record = network_record(self._native, self._packed, self.slots.state)
        self.address = address_of(self._record)
        self._workspaces = threading.local()
        self._crew = Crew(threads - 1) if threads > 1 else None
        self._flops_per_step = flops_per_step
        # Of one input, alone in its pass over the weights; more of them take no longer each.
        self._most_seconds = max(
            self._packed.weights.nbytes / READ_BYTES_PER_SECOND,
            flops_per_step / OPERATIONS_PER_SECOND[precision],
        )

    @property
    def kernel(self) -> str:
        """The rung of the ladder."""
        return RUNG.name

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return self._packed.weights.nbytes

    def step(self, lanes: Lanes) -> None:
        """See `Network.step`: one jitted call, no GIL. Threads may step at the same time."""
        workspace = self.workspace()
        if (
            self._crew is None
            or lanes.inputs * self._most_seconds < LEAST_SHARED_SECONDS
            or self._seconds(lanes) < LEAST_SHARED_SECONDS
        ):
            tick(self.address, lanes.address, workspace.address, len(lanes))
            return
        with self._crew.joined(workspace):
            tick(self.address, lanes.address, workspace.address, len(lanes))

    def _seconds(self, lanes: Lanes) -> float:
        """About how long one thread will take: what the products need, or reading the weights for them."""
        passes = lanes.inputs / min(len(lanes), TILE)
        reading = passes * self.weight_bytes / READ_BYTES_PER_SECOND
        return max(reading, lanes.inputs * self._flops_per_step / OPERATIONS_PER_SECOND[self._precision])

    def workspace(self) -> Workspace:
        """The calling thread's own."""
        try:
            workspace: Workspace = self._workspaces.own
        except AttributeError:
            workspace = self._workspaces.own = Workspace(self._packed, self._precision)
        return workspace

    def hidden(self, slot: int) -> list[NDArray[np.float32]]:
        """Copies of the hidden state of every layer, float32 [P] each."""
        return [
            self.slots.state.h[index, slot, : layer.output_size].copy()
            for index, layer in enumerate(self._spec.layers)
        ]

    def compile(self) -> None:
        """Compile what the first step did not."""
        if self._crew is not None:
            self._crew.compile(self.workspace())
