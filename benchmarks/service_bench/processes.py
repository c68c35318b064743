"""Servers to measure, as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service_bench.load import Target

START_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02


@contextmanager
def process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server process, ended at the end of the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KEEPGATE_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**clean, **environment}
    ) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # it has nothing to save
                running.kill()


@contextmanager
def keepgate_server(folder: Path, models: list[str], **settings: str) -> Iterator[list[Target]]:
    """One server with all models, as a target for each of them. settings: KEEPGATE_* by their names."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    environment = {
        "KEEPGATE_MODELS": str(folder / "models"),
        "KEEPGATE_PORT": "0",
        "KEEPGATE_ADMIN_ADDRESS": "",
        "KEEPGATE_HTTP_ADDRESS": "127.0.0.1:0",
        "KEEPGATE_READY_FILE": str(ready),
        "KEEPGATE_LOG_LEVEL": "error",
        **settings,
    }
    with process([sys.executable, "-m", "keepgate", "serve"], **environment) as running:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the Keepgate server did not start")
            time.sleep(POLL_SECONDS)
        address = ready.read_text().strip()
        yield [Target(f"keepgate {model}", address, running.pid, model) for model in models]
