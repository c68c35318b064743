"""The thread that computes what would keep the event loop too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from keepgate_kernels.errors import DeviceLostError

from keepgate.errors import LostDeviceError


class ComputeThread:
    """One thread, shared by all engines of the process: the kernels need the cores, not each other.

    lost: set when the device failed that states are on; `error` says how. From then on nothing is computed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="keepgate-compute")
        self.closed = False
        self.lost = asyncio.Event()
        self.error: DeviceLostError | None = None

    def run(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on the thread, then `done` on the loop. Nothing if
        closed."""
        if not self.closed:
            self._executor.submit(self._call, work, done)

    def _call(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        work()
        self._loop.call_soon_threadsafe(self._came_back, done)

    def _came_back(self, done: Callable[[], None]) -> None:
        if not self.closed:  # else nobody waits any more, and nothing may follow
            done()

    def lose(self, error: DeviceLostError) -> None:
        """The device failed: its states are gone, for all engines."""
        self.closed = True
        self.error = error
        self.lost.set()

    def check(self) -> None:
        """Raises LostDeviceError if the device failed."""
        if self.error is not None:
            raise LostDeviceError(self.error)

    def close(self) -> None:
        """Wait for the work that runs. What comes back from it, or is given later, is dropped."""
        self.closed = True
        self._executor.shutdown(wait=True)
