"""Keepgate's own contenders: `Network.step` as Python calls it, and the kernel alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numba
import numpy as np
from keepgate_kernels import Lanes, Network, Sampling
from keepgate_kernels.cpu.network import CpuNetwork
from keepgate_kernels.cpu.step import tick

from kernel_bench.problem import KERNEL, OURS, Contender, Problem

KERNEL_OPERATIONS = 100_000_000
"""Operations of one call that measures the kernel alone: up to a millisecond, beside which the way in from
Python is nothing."""
MOST_REPEATS = 256


def kernel_repeats(operations: int) -> int:
    """Steps of this many operations that one call of the kernel takes."""
    return max(1, min(MOST_REPEATS, KERNEL_OPERATIONS // operations))


@numba.njit(nogil=True)
def _repeat(network, lanes, workspace, count, repeats):  # type: ignore[no-untyped-def]
    for _ in range(repeats):
        tick(network, lanes, workspace, count)


def measure_kernel(network: Network, lanes: Lanes, repeats: int) -> Callable[[], object]:
    """A call that takes the lanes' step `repeats` times in one jitted call."""
    backend = network.backend
    if not isinstance(backend, CpuNetwork):
        raise TypeError("the kernel alone is measured on the CPU")
    workspace = backend.workspace()
    return functools.partial(_repeat, backend.address, lanes.address, workspace.address, len(lanes), repeats)


class Batch:
    """A network in the precision given, and one lane for every session with its x as the one input."""

    def __init__(self, problem: Problem, precision: str) -> None:
        self.problem = problem
        self.network = Network(problem.spec, problem.tensors, slots=problem.batch, precision=precision)
        self.lanes = Lanes(problem.spec, max_lanes=problem.batch, max_inputs=problem.batch)
        self.slots = [self._add(session) for session in range(problem.batch)]

    def _add(self, session: int) -> int:
        slot = self.network.slots.allocate()
        if slot is None:
            raise RuntimeError("fewer slots than sessions")
        inputs = self.problem.x[session : session + 1]
        self.lanes.add(slot, inputs, position=1, sampling=Sampling(), predict=False)
        return slot

    def two_steps(self) -> None:
        self.network.step(self.lanes)
        self.network.step(self.lanes)

    def error(self, two_steps: Callable[[], object]) -> float:
        """Largest error of h after two steps from the zero state: the first has no h, the second has."""
        two_steps()
        worst = 0.0
        for session in self.problem.checked():
            h, c = np.zeros(self.problem.hidden), np.zeros(self.problem.hidden)
            for _ in range(2):
                h, c = self.problem.oracle(session, h, c)
            computed = self.network.hidden(self.slots[session])[0]
            worst = max(worst, float(np.abs(computed - h).max()))
        return worst


def contenders(problem: Problem, precision: str) -> Iterator[Contender]:
    """The step from Python and, where the package has an entry for it, the kernel alone."""
    batch = Batch(problem, precision)
    call = functools.partial(batch.network.step, batch.lanes)
    error = functools.partial(batch.error, batch.two_steps)
    yield Contender(OURS, precision, "step", call, error)

    alone = Batch(problem, precision)
    repeats = kernel_repeats(problem.operations)
    kernel = measure_kernel(alone.network, alone.lanes, repeats)
    twice = measure_kernel(alone.network, alone.lanes, 2)
    error = functools.partial(alone.error, twice)
    yield Contender(KERNEL, precision, "tick", kernel, error, steps=repeats)
