"""The states of sessions on a device. A slot has two halves of h; the host knows which one is in use."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda.catalogue import entries
from keepgate_kernels.cuda.launch import Queue, told
from keepgate_kernels.cuda.layout import Layout
from keepgate_kernels.cuda.tiles import ELEMENT
from keepgate_kernels.slots import Slots
from keepgate_kernels.spec import ModelSpec


class CudaSlots(Slots):
    """State on the device; `read` and `write` copy. Raises DeviceMemoryError if it does not fit.

    lock: held by whoever uses the queue.
    """

    def __init__(self, spec: ModelSpec, capacity: int, layout: Layout, queue: Queue) -> None:
        super().__init__(spec, capacity)
        self.lock = threading.RLock()
        self.halves = np.zeros(capacity, np.int32)
        self._queue, self._numbers = queue, self.state_bytes // 4
        by_name = {entry.name: entry for entry in entries()}
        self._read, self._write = by_name["read"], by_name[f"write_{layout.precision}"]
        with told(f"states of {capacity} sessions"):
            self.state = queue.array(layout.state_size, np.float32)
            self.operands = queue.array(layout.operand_size, ELEMENT[layout.precision])
            self.work = queue.array(layout.work_size, np.float32)
            self._layers = queue.put(layout.layers)

    def compile(self) -> None:
        """Compile what reads and writes states."""
        for entry in (self._read, self._write):
            self._queue.load(entry)

    def read(self, slot: int) -> bytes:
        """See `Slots.read`."""
        return self.read_many(np.array([slot], np.int64))[0]

    def read_many(self, slots: NDArray[np.int64]) -> list[bytes]:
        """See `Slots.read_many`."""
        if not len(slots):
            return []
        with self.lock, told("reading states"):
            self._queue.enter()
            out = self._packed(slots)
            packed = out.copy_to_host(stream=self._queue.stream)
            self._queue.wait()
        size = self.state_bytes
        joined = np.ascontiguousarray(packed).astype("<f4", copy=False).tobytes()
        return [joined[first : first + size] for first in range(0, len(joined), size)]

    def _packed(self, slots: NDArray[np.int64]) -> Any:
        """Device memory with the states [B, numbers of a state]."""
        queue = self._queue
        which = queue.put(np.stack([slots, self.halves[slots]], axis=1).astype(np.int32))
        out = queue.array(len(slots) * self._numbers, np.float32).reshape(len(slots), self._numbers)
        queue.launch(self._read, (len(slots), 1), which, self.state, self._layers, out)
        return out

    def write(self, slot: int, state: bytes) -> None:
        """See `Slots.write`."""
        self._check_size(state)
        with self.lock, told("writing a state"):
            self._queue.enter()
            self._unpack(slot, self._queue.put(np.frombuffer(state, "<f4").astype(np.float32)))
            self._queue.wait()

    def _unpack(self, slot: int, source: Any) -> None:
        which = self._queue.put(np.array([[slot, self.halves[slot]]], np.int32))
        self._queue.launch(
            *(self._write, (1, 1), which, self.state, self._layers, source),
            *(self._numbers, self.operands, self.work),
        )

    def _clear(self, slot: int) -> None:
        self.write(slot, bytes(self.state_bytes))

    def _copy(self, source: int, target: int) -> None:
        with self.lock, told("copying a state"):
            self._queue.enter()
            packed = self._packed(np.array([source], np.int64))
            self._unpack(target, packed.reshape(self._numbers))
            self._queue.wait()
