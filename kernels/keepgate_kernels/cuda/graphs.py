"""Launches that are repeated with the same arguments, recorded once and replayed as a CUDA graph.

numba-cuda 0.30 has no graphs of its own. Launches and copies are the driver's (see `calls`), and neither wait
nor allocate, so the driver's stream capture records them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

from keepgate_kernels.cuda.target import FAILURES, RELAXED, driver


class Graphs:
    """Recordings by key, for a stream. What a key stands for must put the same launches with the same
    arguments each time."""

    def __init__(self, stream: Any) -> None:
        self._stream = int(stream.handle)
        self._ready: dict[Hashable, Any] = {}
        self._seen: set[Hashable] = set()
        weakref.finalize(self, _free, self._ready).atexit = False

    def run(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Put what `enqueue` does into the stream: as it is the first time, when kernels may have to be
        loaded; recorded the second time; replayed from then on."""
        if key not in self._seen:
            self._seen.add(key)
            enqueue()
            return
        if key not in self._ready:
            self._ready[key] = self._record(enqueue)
        driver.cuGraphLaunch(self._ready[key], self._stream)

    def _record(self, enqueue: Callable[[], None]) -> Any:
        # Relaxed: memory that is freed meanwhile, by whatever thread, has nothing to do with the recording.
        driver.cuStreamBeginCapture(self._stream, RELAXED)
        try:
            enqueue()
        except BaseException:
            with suppress(*FAILURES):  # what failed may have ended the recording
                driver.cuGraphDestroy(driver.cuStreamEndCapture(self._stream))
            raise
        graph = driver.cuStreamEndCapture(self._stream)
        try:
            return driver.cuGraphInstantiate(graph, 0)
        finally:
            driver.cuGraphDestroy(graph)

    def forget(self) -> None:
        """Recordings are void: arguments have moved. Nothing may be on its way."""
        _free(self._ready)
        self._seen.clear()


def _free(ready: dict[Hashable, Any]) -> None:
    while ready:
        with suppress(*FAILURES):  # a lost device has lost its graphs too
            driver.cuGraphExecDestroy(ready.popitem()[1])
