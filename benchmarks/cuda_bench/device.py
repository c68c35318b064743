"""The device: whether there is one, its name, times by its own events, and its measured ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from keepgate_kernels.cuda.launch import multiprocessors
from numba import cuda

ROUNDS = 15
"""Timed rounds; the median of them counts."""
READ_BYTES = 1 << 31
CACHE_TURNS = 64
"""Times that an array in the L2 cache is read in one launch: the launch itself costs a few microseconds."""
BLOCKS_EACH, THREADS = 4, 256
"""Thread blocks a multiprocessor that read, and their threads: 32 KiB under way, four loads of each."""
MATRIX = 8192


def name_of_device() -> str:
    """Raises DeviceMissingError with the reason if there is none that the kernels run on."""
    multiprocessors()
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def megahertz() -> float:
    """Clocks a microsecond at the most."""
    return float(cuda.get_current_device().CLOCK_RATE) / 1e3


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


@cuda.jit
def _read(data, turns, out):  # type: ignore[no-untyped-def]
    """Read an array of uint64 so many times, past the L1 cache, every time with other threads: the same load
    twice in a thread could be made one. Its size is a multiple of four times the threads."""
    lanes = cuda.gridsize(1)
    lane, found = cuda.grid(1), np.uint64(0)
    for _ in range(turns):
        i = lane
        while i < data.size:
            found ^= cuda.ldcg(data, i) ^ cuda.ldcg(data, i + lanes)
            found ^= cuda.ldcg(data, i + 2 * lanes) ^ cuda.ldcg(data, i + 3 * lanes)
            i += 4 * lanes
        lane += THREADS
        if lane >= lanes:
            lane -= lanes
    out[cuda.grid(1)] = found


def read_rate(size: int, turns: int) -> float:
    """Bytes a second that the device reads of about `size` bytes, read so many times in one launch."""
    blocks = BLOCKS_EACH * multiprocessors()
    piece = 4 * blocks * THREADS
    words = max(1, size // 8 // piece) * piece
    data, stream = cuda.to_device(np.arange(words, dtype=np.uint64)), cuda.stream()
    out = cuda.device_array(blocks * THREADS, np.uint64)
    put = partial(_read[blocks, THREADS, stream], data, turns, out)
    put()
    # A number read twice cancels itself.
    expected = np.bitwise_xor.reduce(np.arange(words if turns % 2 else 0, dtype=np.uint64))
    if np.bitwise_xor.reduce(out.copy_to_host(stream=stream)) != expected:
        raise AssertionError("the kernel that measures bandwidth did not read everything")
    return words * 8 / (microseconds(put, stream, turns) * 1e-6)


def cache_bytes() -> int:
    """The size of the L2 cache."""
    return int(cuda.get_current_device().L2_CACHE_SIZE)


def ceilings() -> dict[str, float]:
    """Measured: bytes a second from memory (a large array read, or copied: the faster) and from the L2 cache,
    operations a second of a large product. cache_bytes: the size of that cache."""
    import torch  # noqa: PLC0415

    source = torch.randn(READ_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * READ_BYTES / (torch_microseconds(lambda: target.copy_(source), 1) * 1e-6)
    size = cache_bytes()
    found = {
        "memory": max(copied, read_rate(READ_BYTES, 1)),
        "cache": read_rate(size // 4, CACHE_TURNS),
        "cache_bytes": float(size),
    }
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
    """The larger of what moving and what arithmetic need at least. All bytes pass the L2 cache; as many as it
    holds may still be there from the repeat before, the rest comes from memory."""
    from_memory = max(0.0, bytes_moved - limits["cache_bytes"])
    moving = max(bytes_moved / limits["cache"], from_memory / limits["memory"])
    return max(moving, operations / limits[precision]) * 1e6
