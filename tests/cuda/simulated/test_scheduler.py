"""The simulator's own scheduler and ours run a kernel alike; ours shows races."""

from __future__ import annotations

import os

import numpy as np
import pytest
from keepgate_kernels import Lanes, Sampling
from keepgate_kernels.cuda.target import SIMULATED
from numba import cuda
from numba.cuda import types
from support.cuda_runs import cuda_network
from support.grid_simulator import scheduler
from support.random_models import random_inputs, random_tensors, token_spec

pytestmark = [
    pytest.mark.own_scheduler,
    pytest.mark.skipif(not SIMULATED, reason="about the simulator, and this is a device"),
]


def run() -> tuple[bytes, int, float]:
    spec = token_spec("lstm", hidden=(6,))
    network, lanes = cuda_network(spec, random_tensors(spec), slots=1, precision="bf16"), Lanes(spec)
    slot = network.slots.allocate()
    assert slot is not None
    sampling = Sampling(temperature=1.0, seed=3)
    lanes.add(slot, random_inputs(spec, (1,)), position=1, sampling=sampling)
    network.step(lanes)
    return network.slots.read(slot), lanes.token(0), lanes.log_probability(0)


def test_both_schedulers_give_the_same_bits() -> None:
    with scheduler(1):
        expected = run()
    assert run() == expected


@cuda.jit
def _reversed(values, fenced):  # type: ignore[no-untyped-def]
    shared = cuda.shared.array(64, types.int64)
    thread = cuda.threadIdx.x
    shared[thread] = values[cuda.blockIdx.x, thread]
    if fenced:
        cuda.syncthreads()
    values[cuda.blockIdx.x, thread] = shared[63 - thread]


def _outcomes(fenced: bool) -> set[bytes]:
    found = set()
    for seed in range(3):
        values = np.arange(128).reshape(2, 64)
        with scheduler(seed):
            _reversed[2, 64](values, fenced)
        found.add(values.tobytes())
    return found


def test_a_missing_barrier_shows() -> None:
    assert _outcomes(True) == {np.arange(128).reshape(2, 64)[:, ::-1].tobytes()}
    assert len(_outcomes(False)) > 1


def test_the_simulator_is_numba_cudas() -> None:
    assert os.environ["NUMBA_ENABLE_CUDASIM"] == "1"
    assert "numba_cuda" in (cuda.__file__ or "")
