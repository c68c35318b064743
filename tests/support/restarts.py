"""Servers that are killed and started again at the same address."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.servers import ServerProcess

WAIT_SECONDS = 60.0


class Restartable:
    """A server with a store, at one address for good."""

    def __init__(self, start: Callable[..., ServerProcess], store: Path) -> None:
        self._start = start
        self._store = store
        self._server = start(store=f"sqlite:{store}")
        self.address = self._server.address

    def restart(self, **settings: object) -> None:
        """Kill the server and start another."""
        self._server.kill()
        port = self.address.rsplit(":", 1)[1]
        self._server = self._start(store=f"sqlite:{self._store}", port=port, **settings)

    def restart_at(self, progress: Callable[[], int], marks: list[int]) -> threading.Thread:
        """In a thread: restart as soon as `progress` has come to each of the marks."""

        def run() -> None:
            for mark in marks:
                deadline = time.monotonic() + WAIT_SECONDS
                while progress() < mark and time.monotonic() < deadline:
                    time.sleep(0.001)
                self.restart()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread
