"""What goes wrong on a device is told in the package's own errors, and no state is taken for good."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from keepgate_kernels import Lanes, Network, Sampling
from keepgate_kernels.cuda.catalogue import Entry
from keepgate_kernels.cuda.launch import Queue, as_device_error, multiprocessors
from keepgate_kernels.errors import DeviceError, DeviceLostError, DeviceMemoryError, DeviceMissingError
from numba.cuda.cudadrv.driver import CudaAPIError
from support.cuda_runs import cuda_network
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec


class ApiError(Exception):
    """As numba-cuda's CudaAPIError, whose code is a CUresult."""

    def __init__(self, code: int) -> None:
        super().__init__(f"[{code}] the driver said so")
        self.code = code


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ApiError(2), DeviceMemoryError),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: no more"), DeviceMemoryError),
        (ApiError(700), DeviceLostError),
        (RuntimeError("CUDA_ERROR_LAUNCH_FAILED"), DeviceLostError),
    ],
)
def test_driver_errors_have_a_meaning(error: Exception, kind: type[DeviceError]) -> None:
    found = as_device_error(error, "a step")
    assert type(found) is kind
    assert str(found).startswith("a step: the device ")


def test_too_little_memory_for_the_states() -> None:
    spec = token_spec(hidden=(1024,))
    with pytest.raises(
        DeviceMemoryError, match="states of 100000000 sessions: the device has too little free memory"
    ):
        Network(spec, random_tensors(spec), slots=100_000_000, device="cuda")


def test_a_tick_that_finds_too_little_memory_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = token_spec(hidden=(4,))
    network = cuda_network(spec, random_tensors(spec), slots=1)
    lanes = Lanes(spec, max_inputs=5000)
    slot = network.slots.allocate()
    assert slot is not None
    lanes.add(slot, random_inputs(spec, (4000,)), position=4000, sampling=Sampling())
    array = Queue.array

    def full(queue: Queue, size: int, kind: Any) -> Any:
        return array(queue, size << 40 if size > 4000 else size, kind)

    monkeypatch.setattr(Queue, "array", full)
    with pytest.raises(DeviceMemoryError, match="a step: the device has too little free memory"):
        network.step(lanes)
    monkeypatch.undo()
    network.step(lanes)
    assert lanes.all_finite


def test_a_tick_that_fails_half_way_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = feature_spec(hidden=(4,))
    network = cuda_network(spec, random_tensors(spec), slots=2)
    lanes, inputs = Lanes(spec), random_inputs(spec, (1,))
    first, second = (network.slots.allocate() or 0 for _ in range(2))

    def step(slot: int, values: Any) -> bool:
        lanes.clear()
        lanes.add(slot, values, position=1, sampling=Sampling())
        network.step(lanes)
        return lanes.all_finite

    launch = Queue.launch

    def fail_at_the_answer(queue: Queue, entry: Entry, *arguments: Any) -> None:
        if entry.name.startswith("answer"):
            raise CudaAPIError(2, "there is no memory for it")
        launch(queue, entry, *arguments)

    assert step(first, inputs)
    monkeypatch.setattr(Queue, "launch", fail_at_the_answer)
    with pytest.raises(DeviceMemoryError, match="a step: the device has too little free memory"):
        step(first, np.full_like(inputs, np.nan))
    monkeypatch.undo()
    # In the place of the one that was not finite, and never was told so.
    assert step(second, inputs)
    fresh = cuda_network(spec, random_tensors(spec), slots=1)
    slot = fresh.slots.allocate() or 0
    lanes.clear()
    lanes.add(slot, inputs, position=1, sampling=Sampling())
    fresh.step(lanes)
    assert network.slots.read(second) == fresh.slots.read(slot)


LOST = """
import numpy as np
from numba import cuda
from keepgate_kernels import Lanes, Sampling
from keepgate_kernels.errors import DeviceLostError
from support.cuda_runs import cuda_network
from support.random_models import random_inputs, random_tensors, token_spec

@cuda.jit
def wild(array):
    array[1 << 40] = 1

spec = token_spec(hidden=(4,))
network, lanes = cuda_network(spec, random_tensors(spec), slots=1), Lanes(spec)
slot = network.slots.allocate()
lanes.add(slot, random_inputs(spec, (1,)), position=1, sampling=Sampling())
network.step(lanes)
wild[1, 1](cuda.to_device(np.zeros(1)))
for call in (lambda: network.step(lanes), lambda: network.slots.read(slot)):
    try:
        call()
    except DeviceLostError as error:
        print(error)
"""


def test_a_device_that_is_lost() -> None:
    command = [sys.executable, "-c", LOST]
    result = subprocess.run(command, cwd="tests", capture_output=True, text=True, timeout=300, check=False)
    told = result.stdout.splitlines()
    assert [line.split(":")[0] for line in told] == ["a step", "reading states"]
    assert all("the device failed" in line and line.endswith("restart the process") for line in told)


class OldDevice:
    compute_capability = (7, 5)
    name = b"old"


def test_a_device_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    multiprocessors.cache_clear()
    monkeypatch.setattr("numba.cuda.get_current_device", OldDevice)
    with pytest.raises(
        DeviceMissingError, match=r"compute capability 7\.5, expected at least 8\.0"
    ) as caught:
        multiprocessors()
    assert caught.value.reason == "compute capability 7.5, expected at least 8.0"
    multiprocessors.cache_clear()


def test_an_unknown_device_is_refused() -> None:
    spec = token_spec()
    with pytest.raises(ValueError, match="device: got 'tpu', expected one of cpu, cuda"):
        Network(spec, random_tensors(spec), slots=1, device="tpu")
