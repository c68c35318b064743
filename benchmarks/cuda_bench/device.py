"""The device: whether there is one, its name, times by its own events, and its measured ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from keepgate_kernels.cuda.launch import multiprocessors
from numba import cuda

ROUNDS = 15
"""Timed rounds; the median of them counts."""
COPIED_BYTES = 1 << 31
MATRIX = 8192


def name_of_device() -> str:
    """Raises DeviceMissingError with the reason if there is none that the kernels run on."""
    multiprocessors()
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def microseconds(put: Callable[[], Any], stream: Any, repeats: int) -> float:
    """Median time of one of `repeats` things that `put` puts into a stream of numba-cuda."""
    times: list[float] = []
    for _ in range(ROUNDS):
        begin, end = cuda.event(), cuda.event()
        begin.record(stream)
        put()
        end.record(stream)
        end.synchronize()
        times.append(cuda.event_elapsed_time(begin, end) * 1e3 / repeats)
    return statistics.median(times)


def torch_microseconds(put: Callable[[], Any], repeats: int) -> float:
    """The same on PyTorch's current stream."""
    import torch  # noqa: PLC0415

    times: list[float] = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        put()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / repeats)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Measured: bytes a second of a large copy, read and written; operations a second of a large product."""
    import torch  # noqa: PLC0415

    source = torch.randn(COPIED_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    found = {"bytes": 2 * COPIED_BYTES / (torch_microseconds(lambda: target.copy_(source), 1) * 1e-6)}
    torch.backends.cuda.matmul.allow_tf32 = False
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.randn(MATRIX, MATRIX, device="cuda").to(kind)
        out = torch.empty_like(matrix)
        seconds = torch_microseconds(partial(torch.matmul, matrix, matrix, out=out), 1) * 1e-6
        found[precision] = 2 * MATRIX**3 / seconds
    return found


def floor_microseconds(
    bytes_moved: float, operations: float, precision: str, limits: dict[str, float]
) -> float:
    """The larger of what memory and what arithmetic need at least."""
    return max(bytes_moved / limits["bytes"], operations / limits[precision]) * 1e6
