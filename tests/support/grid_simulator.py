"""A faster scheduler for numba-cuda's simulator, which also shows races.

The simulator makes a system thread of every CUDA thread and polls them at each barrier: milliseconds a
barrier. Here they are greenlets. All blocks of a grid are alive at once and their threads are switched at
barriers only, in an order that is drawn anew at each: a kernel that reads what another block, or a thread
without a barrier between, writes gives other numbers under another seed. And a grid may have a barrier of
its own, whatever its size.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet
import numpy as np
from numba.cuda.simulator import kernel, kernelapi

_BLOCK, _GRID = "block", "grid"


class _Thread(greenlet.greenlet):
    """One CUDA thread: the attributes and barriers that the simulator looks for in the current thread."""

    def __init__(
        self, run: Callable[[], None], block: _Block, point: tuple[int, int, int], number: int
    ) -> None:
        super().__init__(run)
        self.block = block
        self.blockIdx = kernelapi.Dim3(*block.point)
        self.threadIdx = kernelapi.Dim3(*point)
        self.thread_id = number
        self.waits_for = _BLOCK

    def _wait(self, where: str) -> None:
        self.waits_for = where
        self.block.hub.switch()

    def syncthreads(self) -> None:
        self._wait(_BLOCK)

    def sync_grid(self) -> None:
        self._wait(_GRID)

    def _gather(self, value: Any, combine: Callable[[Any], Any]) -> Any:
        self.block.votes.append(value)
        self._wait(_BLOCK)
        result = combine(self.block.votes)
        self._wait(_BLOCK)
        self.block.votes.clear()
        self._wait(_BLOCK)
        return result

    def syncthreads_count(self, value: Any) -> Any:
        return self._gather(value, np.count_nonzero)

    def syncthreads_and(self, value: Any) -> Any:
        return self._gather(value, all)

    def syncthreads_or(self, value: Any) -> Any:
        return self._gather(value, any)


class _Block:
    def __init__(self, point: tuple[int, int, int], shared_bytes: int) -> None:
        self.point = point
        self.shared = kernelapi.FakeCUDAShared(shared_bytes)
        self.votes: list[Any] = []
        self.threads: list[_Thread] = []
        self.hub = greenlet.getcurrent()


class _Current:
    """Stands in for the module `threading` in the simulator."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def current_thread(self) -> Any:
        return greenlet.getcurrent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class Manager:
    """Takes the place of `BlockManager`: collects the blocks of a grid, and runs them with the last."""

    blocks: list[_Block]
    dice = random.Random(0)

    def __init__(self, function: Any, grid: tuple[int, ...], block: tuple[int, ...], debug: bool) -> None:
        self._function, self._grid, self._block = function, grid, block

    def run(self, point: tuple[int, int, int], *args: Any) -> None:
        if not any(point):
            Manager.blocks = []
        block = _Block(point, kernel._get_kernel_context()._dynshared_size)
        Manager.blocks.append(block)
        for number, at in enumerate(np.ndindex(*self._block[::-1])):
            block.threads.append(_Thread(lambda: self._function(*args), block, at[::-1], number))
        if point == tuple(size - 1 for size in self._grid):
            _run(Manager.blocks)
            Manager.blocks = []


def _run(blocks: list[_Block]) -> None:
    dice = Manager.dice
    waiting: list[_Block] = []
    alive = list(blocks)
    while alive or waiting:
        if not alive:
            alive, waiting = waiting, []
        dice.shuffle(alive)
        for block in list(alive):
            dice.shuffle(block.threads)
            for thread in block.threads:
                thread.switch()
            block.threads = [thread for thread in block.threads if not thread.dead]
            if not block.threads:
                alive.remove(block)
            elif len(places := {thread.waits_for for thread in block.threads}) > 1:
                raise RuntimeError(f"threads of block {block.point} wait at different barriers: {places}")
            elif places == {_GRID}:
                alive.remove(block)
                waiting.append(block)


class _Module(kernelapi.FakeCUDAModule):
    def __init__(self, grid: Any, block: Any, shared_bytes: int) -> None:
        super().__init__(grid, block, shared_bytes)
        self._dynshared_size = shared_bytes

    @property
    def shared(self) -> Any:
        return greenlet.getcurrent().block.shared


class _Group:
    def sync(self) -> None:
        greenlet.getcurrent().sync_grid()


@contextmanager
def scheduler(seed: int) -> Iterator[None]:
    """Kernels within run on greenlets, in an order drawn from the seed."""
    originals = kernel.BlockManager, kernel.FakeCUDAModule, kernelapi.threading, kernelapi.GridGroup
    Manager.dice = random.Random(seed)
    kernel.BlockManager, kernel.FakeCUDAModule = Manager, _Module
    kernelapi.threading, kernelapi.GridGroup = _Current(kernelapi.threading), _Group
    try:
        yield
    finally:
        kernel.BlockManager, kernel.FakeCUDAModule, kernelapi.threading, kernelapi.GridGroup = originals
