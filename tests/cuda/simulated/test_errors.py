"""What goes wrong on a device is told in the package's own errors, and no state is taken for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keepgate_kernels.cuda.launch as launch_module
import pytest
from keepgate_kernels import Lanes, Network, Sampling
from keepgate_kernels.cuda.launch import Queue, as_device_error, multiprocessors
from keepgate_kernels.errors import DeviceError, DeviceLostError, DeviceMemoryError, DeviceMissingError
from support.cuda_runs import cuda_network
from support.random_models import random_inputs, random_tensors, token_spec


class ApiError(Exception):
    """As numba-cuda's CudaAPIError, whose code is a CUresult."""

    def __init__(self, code: int) -> None:
        super().__init__(f"[{code}] the driver said so")
        self.code = code


@pytest.fixture
def api_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's errors are ApiError."""
    monkeypatch.setattr(launch_module, "failures", lambda: (ApiError,))


def failing(code: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise ApiError(code)

    return call


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


@pytest.mark.usefixtures("api_errors")
def test_too_little_memory_for_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = token_spec()
    monkeypatch.setattr(Queue, "array", failing(2))
    with pytest.raises(
        DeviceMemoryError, match="states of 7 sessions: the device has too little free memory"
    ):
        Network(spec, random_tensors(spec), slots=7, device="cuda")


@pytest.mark.usefixtures("api_errors")
def test_a_device_lost_in_a_step_and_while_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = token_spec(hidden=(4,))
    network, lanes = cuda_network(spec, random_tensors(spec), slots=1), Lanes(spec)
    slot = network.slots.allocate()
    assert slot is not None
    lanes.add(slot, random_inputs(spec, (1,)), position=1, sampling=Sampling())
    monkeypatch.setattr(Queue, "launch", failing(719))
    with pytest.raises(DeviceLostError, match=r"a step: the device failed .* restart the process"):
        network.step(lanes)
    with pytest.raises(DeviceLostError, match="reading states"):
        network.slots.read(slot)


class OldDevice:
    compute_capability = (7, 5)
    name = b"old"


def test_a_device_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    multiprocessors.cache_clear()
    monkeypatch.setattr(launch_module, "SIMULATED", False)
    monkeypatch.setattr("numba.cuda.get_current_device", OldDevice, raising=False)
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
