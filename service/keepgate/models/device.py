"""Where models are computed."""

from __future__ import annotations

from enum import StrEnum


class Device(StrEnum):
    """AUTO: each model on the CUDA device if it can be, else on the CPU."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"
