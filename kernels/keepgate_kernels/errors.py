"""What a device can't do, apart from the model's own faults (`SpecError`, `WeightsError`).

DeviceError
    DeviceMissingError    there is none to run on: no numba-cuda, driver or device, or too old an architecture
    DeviceMemoryError     it has too little free memory
    DeviceLostError       it failed while it ran: every network on it is gone, whatever it was asked for
"""

from __future__ import annotations


class DeviceError(RuntimeError):
    """A device is missing, full or lost. The text is for the operator, and names what can be done."""


class DeviceMissingError(DeviceError):
    """There is no such device here. `reason` says it in a few words, for whoever falls back to the CPU."""

    def __init__(self, text: str, *, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class DeviceMemoryError(DeviceError):
    """The device's memory does not hold what was asked for."""


class DeviceLostError(DeviceError):
    """The device failed mid-run. The process can't use it again; states on it are lost."""
