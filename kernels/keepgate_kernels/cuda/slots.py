"""The states of sessions on a device. A slot has two halves of h; the host knows which one is in use."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda.catalogue import entries
from keepgate_kernels.cuda.launch import Queue, pinned, told
from keepgate_kernels.cuda.layout import Layout
from keepgate_kernels.cuda.tiles import ELEMENT
from keepgate_kernels.slots import Slots
from keepgate_kernels.spec import ModelSpec

MOST_AT_ONCE = 64
"""States that are read by one launch and one copy."""


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
            # What states pass through, from the host and back; two at least, to copy from slot to slot.
            self._most = min(max(capacity, 2), MOST_AT_ONCE)
            self._which, self._named = queue.array(2 * self._most, np.int32), pinned(2 * self._most, np.int32)
            self._packed = queue.array(self._most * self._numbers, np.float32)
            self._pairs, self._rows = self._which.reshape(-1, 2), self._packed.reshape(self._most, -1)
            self._pair = [self._which[at : at + 2].reshape(1, 2) for at in (0, 2)]
            self._states = pinned(self._most * self._numbers, np.float32)

    def compile(self) -> None:
        """Compile what reads and writes states."""
        for entry in (self._read, self._write):
            self._queue.load(entry)

    def read(self, slot: int) -> bytes:
        """See `Slots.read`."""
        return self.read_many(np.array([slot], np.int64))[0]

    def read_many(self, slots: NDArray[np.int64]) -> list[bytes]:
        """See `Slots.read_many`."""
        states: list[bytes] = []
        with self.lock, told("reading states"):
            self._queue.enter()
            for first in range(0, len(slots), self._most):
                group = slots[first : first + self._most]
                self._name(group)
                self._pack(len(group))
                self._queue.download(self._states, self._packed, 0, len(group) * self._numbers)
                self._queue.wait()
                found = self._states[: len(group) * self._numbers].astype("<f4", copy=False)
                states += [state.tobytes() for state in found.reshape(len(group), self._numbers)]
        return states

    def _name(self, slots: NDArray[np.int64]) -> None:
        """Upload which slots are meant, with the half of each that is in use."""
        named = self._named[: 2 * len(slots)]
        named[::2], named[1::2] = slots, self.halves[slots]
        self._queue.upload(self._which, self._named, len(named))

    def _pack(self, count: int) -> None:
        """The states of the first slots that are named, one after the other."""
        self._queue.launch(self._read, (count, 1), self._pairs, self.state, self._layers, self._rows)

    def _unpack(self, place: int) -> None:
        """The first state, into the slot that is named in the first place or the second."""
        self._queue.launch(
            *(self._write, (1, 1), self._pair[place], self.state, self._layers, self._packed),
            *(self._numbers, self.operands, self.work),
        )

    def write(self, slot: int, state: bytes) -> None:
        """See `Slots.write`."""
        self._check_size(state)
        with self.lock, told("writing a state"):
            self._queue.enter()
            self._states[: self._numbers] = np.frombuffer(state, "<f4")
            self._queue.upload(self._packed, self._states, self._numbers)
            self._name(np.array([slot], np.int64))
            self._unpack(0)
            self._queue.wait()

    def _clear(self, slot: int) -> None:
        self.write(slot, bytes(self.state_bytes))

    def _copy(self, source: int, target: int) -> None:
        with self.lock, told("copying a state"):
            self._queue.enter()
            self._name(np.array([source, target], np.int64))
            self._pack(1)
            self._unpack(1)
            self._queue.wait()
