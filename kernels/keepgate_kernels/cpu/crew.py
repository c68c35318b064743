"""Threads that help with heavy steps of one network."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from keepgate_kernels.cpu.memory import address_of, aligned
from keepgate_kernels.cpu.phase import OWN_BYTES
from keepgate_kernels.cpu.step import assist
from keepgate_kernels.cpu.workspace import Workspace


class Crew:
    """`size` sleeping threads. One step at a time may have their help.

    They hold no reference to the crew, and end when it is gone or closed.
    """

    def __init__(self, size: int) -> None:
        self._busy = threading.Lock()
        self._helpers = [_Helper() for _ in range(size)]
        for helper in self._helpers:
            threading.Thread(target=helper.serve, name="keepgate-helper", daemon=True).start()
        self._finalizer = weakref.finalize(self, _dismiss, self._helpers)

    @contextmanager
    def joined(self, workspace: Workspace) -> Iterator[None]:
        """Wake the helpers for a step with this work space, unless they are at another one."""
        if not self._busy.acquire(blocking=False):
            yield
            return
        try:
            workspace.share(True)
            for helper in self._helpers:
                helper.workspace = workspace
                helper.wake()
            yield
        finally:
            workspace.share(False)
            self._busy.release()

    def compile(self, workspace: Workspace) -> None:
        """Compile what helpers run, which a work space that is closed to them ends at once."""
        own = aligned(OWN_BYTES)
        assist(workspace.address, address_of(own))

    def close(self) -> None:
        """End the threads."""
        self._finalizer()


class _Helper:
    """A thread's part. It sleeps on a lock, which wakes it in half the time that an Event takes."""

    def __init__(self) -> None:
        self.workspace: Workspace | None = None
        self.dismissed = False
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._own = aligned(OWN_BYTES)

    def wake(self) -> None:
        """Let it go round once. By one thread at a time: the crew's lock sees to that."""
        if self._asleep.locked():  # else it has yet to see the last call
            self._asleep.release()

    def serve(self) -> None:
        own = address_of(self._own)
        while True:
            self._asleep.acquire()
            if self.dismissed:
                return
            workspace = self.workspace
            if workspace is not None:
                assist(workspace.address, own)


def _dismiss(helpers: list[_Helper]) -> None:
    for helper in helpers:
        helper.dismissed = True
        helper.wake()
