"""A loaded model: weights, slots, and one call for a batch, on the device of one's choice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.network import CpuNetwork
from keepgate_kernels.lanes import Lanes
from keepgate_kernels.sampling import Sampling
from keepgate_kernels.slots import Slots
from keepgate_kernels.spec import ModelSpec, TokenInput
from keepgate_kernels.weights import check_precision, check_tensors
from keepgate_kernels.weights import fingerprint as weights_fingerprint

DEVICES = ("cpu", "cuda")


def check_device(device: str) -> None:
    """Raises DeviceMissingError if no network can run on one of DEVICES here, ValueError for another name."""
    if device not in DEVICES:
        raise ValueError(f"device: got {device!r}, expected one of {', '.join(DEVICES)}")
    if device == "cuda":
        from keepgate_kernels.cuda.launch import multiprocessors  # noqa: PLC0415  # needs numba-cuda

        multiprocessors()


class Backend(Protocol):
    """What a device does for a `Network`."""

    @property
    def slots(self) -> Slots:
        """The states of the sessions."""

    @property
    def kernel(self) -> str:
        """See `Network.kernel`."""

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""

    def step(self, lanes: Lanes) -> None:
        """See `Network.step`."""

    def hidden(self, slot: int) -> list[NDArray[np.float32]]:
        """See `Network.hidden`."""

    def compile(self) -> None:
        """Compile what a first step does not."""


class Network:
    """Packed weights and the state of up to `slots` sessions.

    tensors: canonical float32 arrays with the names and shapes of `spec.tensors()`. precision: one of
    PRECISIONS, how weights are held and multiplied. threads: how many a heavy step may use on the CPU.
    device: one of DEVICES; "cuda" is the process's current CUDA device and needs keepgate-kernels[cuda].
    Raises WeightsError if the tensors do not fit the spec, ValueError for another argument, DeviceError
    (`keepgate_kernels.errors`) if the device is missing or full.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        slots: int,
        precision: str = "fp32",
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        check_precision(precision)
        if threads < 1:
            raise ValueError(f"threads: got {threads}, expected at least 1")
        check_device(device)
        check_tensors(spec, tensors)
        self.spec = spec
        self.precision = precision
        self.device = device
        self.fingerprint = weights_fingerprint(spec, tensors)
        products = sum(math.prod(shape) for shape in spec.tensors().values() if len(shape) == 2)
        if isinstance(spec.input, TokenInput):  # folded, or looked up
            products -= spec.input.vocabulary_size * spec.input.embedding_size
        self._flops_per_step = 2 * products
        self.backend: Backend
        if device == "cuda":
            from keepgate_kernels.cuda.network import CudaNetwork  # noqa: PLC0415  # needs numba-cuda

            self.backend = CudaNetwork(spec, tensors, slots=slots, precision=precision)
        else:
            self.backend = CpuNetwork(
                spec,
                tensors,
                slots=slots,
                precision=precision,
                threads=threads,
                flops_per_step=self._flops_per_step,
            )
        self.slots = self.backend.slots
        self.step: Callable[[Lanes], None] = self.backend.step
        """Apply the lanes' inputs to their slots and fill in their answers, without the GIL.

        Threads may call it with lanes of their own and slots that are not shared; on the CPU they step at the
        same time, on another device one after the other. Raises DeviceError if the device fails.
        """

    @property
    def kernel(self) -> str:
        """What computes: networks of the same weights, precision and kernel have the same bits."""
        return self.backend.kernel

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return self.backend.weight_bytes

    @property
    def flops_per_step(self) -> int:
        """Operations of one input's matrix products, two for each multiply-add; for estimates of cost."""
        return self._flops_per_step

    def hidden(self, slot: int) -> list[NDArray[np.float32]]:
        """Copies of the hidden state of every layer, float32 [P] each."""
        return self.backend.hidden(slot)

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
        self.backend.compile()
        self.slots.release(slot)
        return time.perf_counter() - begin
