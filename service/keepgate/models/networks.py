"""Networks on the device that was asked for, or that there is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import structlog
from keepgate_kernels import ModelSpec, Network, check_device
from keepgate_kernels.errors import DeviceError, DeviceMissingError
from numpy.typing import NDArray

from keepgate.errors import ConfigError
from keepgate.models.device import Device

log = structlog.get_logger(__name__)


def present(device: Device) -> Device:
    """The device, or the CPU where AUTO finds no other, which the log is told.

    Raises ConfigError if CUDA is asked for and there is no device to use.
    """
    if device is Device.CPU:
        return device
    try:
        check_device(Device.CUDA)
    except DeviceMissingError as error:
        if device is Device.CUDA:
            raise ConfigError(str(error)) from error
        log.info("no CUDA device, models are computed on the CPU", reason=error.reason)
        return Device.CPU
    return device


def network_on(
    device: Device,
    spec: ModelSpec,
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    slots: int,
    precision: str,
    threads: int,
) -> Network:
    """A network on a device that is `present`; AUTO takes the CPU if the device has no room for it.

    Raises ValueError as `Network`, and DeviceError.
    """
    if device is not Device.CPU:
        try:
            return Network(spec, tensors, slots=slots, precision=precision, device=Device.CUDA)
        except DeviceError as error:
            if device is Device.CUDA:
                raise
            log.warning("model computed on the CPU: the CUDA device cannot take it", error=str(error))
    return Network(spec, tensors, slots=slots, precision=precision, threads=threads)
