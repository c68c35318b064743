"""A real Redis, as a process of the test's own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

START_SECONDS = 30.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.01
PORTS_TRIED = 5


class RedisServer:
    """It runs from the beginning, with its files in `directory`. settings: as in redis.conf, over those that
    make every acknowledged write last."""

    def __init__(self, directory: Path, **settings: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("these tests need redis-server: apt-get install redis-server")
        directory.mkdir(parents=True, exist_ok=True)
        lasting = {"appendonly": "yes", "appendfsync": "always", "save": "", "bind": "127.0.0.1"}
        self.settings = {**lasting, "dir": str(directory), **settings}
        self._program = program
        self._log = directory / "log"
        for _ in range(PORTS_TRIED):
            self.port = _free_port()
            try:
                self.start()
            except RuntimeError:  # another process was faster
                continue
            return
        raise RuntimeError(f"Redis does not start:\n{self._log.read_text()}")

    @property
    def url(self) -> str:
        password = self.settings.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A connection that sees what is there."""
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Start, also again after `stop` or `kill`, and return once it answers."""
        arguments = [part for name, value in self.settings.items() for part in (f"--{name}", value)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [self._program, "--port", str(self.port), *arguments], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with self.client() as client:
                try:
                    client.ping()
                except redis.ConnectionError:
                    time.sleep(POLL_SECONDS)
                else:
                    return
        self.kill()
        raise RuntimeError(f"Redis does not answer:\n{self._log.read_text()}")

    def stop(self) -> None:
        """Stop as an operator does."""
        self._process.terminate()
        self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Stop without any chance to write. Nothing happens if it is not there."""
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """From now on it takes connections and does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on after `freeze`."""
        self._process.send_signal(signal.SIGCONT)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
