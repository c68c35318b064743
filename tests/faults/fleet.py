"""Servers of one test that are killed and started again where they were."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

from support.servers import ServerProcess

SETTINGS: dict[str, object] = {
    # Sessions are paged out and in all the time, and journals are cut often.
    "slots": 24,
    "snapshot_steps": 32,
    "retained_steps": 256,
    "threads": 1,
    "drain_seconds": 10,
}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Seat:
    """One address, and the server that has it at present; it may have had many."""

    def __init__(self, directory: Path, settings: dict[str, object]) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.starts = 0
        self._directory = directory
        self._settings = {**SETTINGS, "port": self.port, **settings}
        self._server: ServerProcess | None = None

    @property
    def server(self) -> ServerProcess:
        if self._server is None:
            raise RuntimeError("no server was started")
        return self._server

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.process.poll() is None

    def spawn(self) -> None:
        """Start a server; it may not be ready yet."""
        self.starts += 1
        self._server = ServerProcess(self._directory / f"{self.port}-{self.starts}", self._settings)

    async def start(self) -> None:
        """Start a server, and return when it is ready."""
        self.spawn()
        await self.ready()

    async def ready(self) -> None:
        await asyncio.to_thread(self.server.wait_ready)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. Raises AssertionError if it had an internal error."""
        if self.is_running:
            self.server.kill()
            self.check_log()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        code = await asyncio.to_thread(self.server.stop)
        self.check_log()
        return code

    def pause(self) -> None:
        self.server.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.server.process.send_signal(signal.SIGCONT)

    def check_log(self) -> None:
        """No bug showed in the log of the server."""
        log = self.server.log()
        assert "Traceback" not in log, log
        assert "damaged" not in log, log

    def cleanup(self) -> None:
        """Whatever happened, nothing runs any more."""
        if self.is_running:
            self.server.kill()
