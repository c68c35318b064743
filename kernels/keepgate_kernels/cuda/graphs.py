"""Launches that are repeated with the same arguments, recorded once and replayed as a CUDA graph.

numba-cuda 0.30 has no graphs of its own, but neither its launches nor its copies from pinned memory wait,
allocate or look at the stream, so the driver's stream capture, which it brings as cuda.bindings, records
them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol


class Recorder(Protocol):
    """What records what is put into a stream, and starts it again."""

    def begin(self) -> None:
        """What comes next is recorded, not started."""

    def end(self) -> Any:
        """The recording, ready to be started."""

    def start(self, graph: Any) -> None:
        """Put it into the stream."""

    def free(self, graph: Any) -> None:
        """It will not be started again."""


class DriverRecorder:
    """The driver's capture of a stream."""

    def __init__(self, stream: Any) -> None:
        from cuda.bindings import driver as binding  # noqa: PLC0415  # there is none in the simulator
        from numba.cuda.cudadrv.driver import driver  # noqa: PLC0415

        self._driver, self._stream = driver, int(stream.handle)
        # Relaxed: memory that is freed meanwhile, by whatever thread, has nothing to do with the recording.
        self._mode = binding.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED

    def begin(self) -> None:
        """See `Recorder`."""
        self._driver.cuStreamBeginCapture(self._stream, self._mode)

    def end(self) -> Any:
        """See `Recorder`."""
        graph = self._driver.cuStreamEndCapture(self._stream)
        ready = self._driver.cuGraphInstantiate(graph, 0)
        self._driver.cuGraphDestroy(graph)
        return ready

    def start(self, graph: Any) -> None:
        """See `Recorder`."""
        self._driver.cuGraphLaunch(graph, self._stream)

    def free(self, graph: Any) -> None:
        """See `Recorder`."""
        self._driver.cuGraphExecDestroy(graph)


class Graphs:
    """Recordings by key. What a key stands for must put the same launches with the same arguments each
    time."""

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._ready: dict[Hashable, Any] = {}
        self._seen: set[Hashable] = set()

    def run(self, key: Hashable, enqueue: Callable[[], None]) -> None:
        """Put what `enqueue` does into the stream: as it is the first time, when kernels may have to be
        loaded; recorded the second time; replayed from then on. Without a recorder as it is every time."""
        if self._recorder is None or key not in self._seen:
            self._seen.add(key)
            enqueue()
            return
        if key not in self._ready:
            self._recorder.begin()
            try:
                enqueue()
            finally:
                graph = self._recorder.end()
            self._ready[key] = graph
        self._recorder.start(self._ready[key])

    def forget(self) -> None:
        """Recordings are void: arguments have moved. Nothing may be on its way."""
        for graph in self._ready.values():
            if self._recorder is not None:
                self._recorder.free(graph)
        self._ready.clear()
        self._seen.clear()
