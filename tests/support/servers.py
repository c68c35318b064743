"""Servers as processes, as users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

START_SECONDS = 120.0
"""A server may have to compile its kernels first."""
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02


class ServerProcess:
    """A running server. Settings come by environment: max_sessions=1 becomes
    KEEPGATE_MAX_SESSIONS=1. extra: goes to the environment as it is."""

    def __init__(
        self, directory: Path, settings: Mapping[str, object], extra: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._ready = directory / "ready"
        self._ready.unlink(missing_ok=True)
        self._log = directory / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEEPGATE_")}
        defaults = {
            "port": 0,
            "admin_address": "127.0.0.1:0",
            "http_address": "127.0.0.1:0",
            "ready_file": self._ready,
            "log_format": "json",
        }
        for name, value in {**defaults, **settings}.items():
            environment[f"KEEPGATE_{name.upper()}"] = str(value)
        environment.update(extra or {})
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "keepgate.server"], env=environment, stdout=log, stderr=log
            )
        self.address = ""

    def wait_ready(self) -> ServerProcess:
        """Return once the server answers. Raises RuntimeError with its log if it ends before
        that."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready.exists():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server exited with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server was not ready in {START_SECONDS} s:\n{self.log()}")
            time.sleep(POLL_SECONDS)
        self.address = self._ready.read_text().strip()
        return self

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def admin_address(self) -> str:
        """Where the Admin service is."""
        return self._told("admin")

    @property
    def http_address(self) -> str:
        """Where metrics and health are."""
        return self._told("http")

    def _told(self, what: str) -> str:
        """An address, as a log in JSON tells when the server is ready."""
        deadline = time.monotonic() + START_SECONDS
        while '"event": "ready"' not in self.log():  # it comes after the ready file
            if time.monotonic() > deadline:
                raise RuntimeError(f"the log does not say that the server is ready:\n{self.log()}")
            time.sleep(POLL_SECONDS)
        ready = next(line for line in self.log().splitlines() if '"event": "ready"' in line)
        return str(json.loads(ready)[what])

    @property
    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def log(self) -> str:
        """All that the server wrote to stdout and stderr."""
        return self._log.read_text()

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Stop as an operator does; the exit code."""
        if self.process.poll() is None:
            self.terminate()
        return self.wait()

    def kill(self) -> None:
        """Stop without any chance to clean up."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)
