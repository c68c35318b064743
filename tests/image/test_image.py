"""What the Dockerfile does, done without Docker: its own instructions, run as an unprivileged user.

The source tree is a read-only copy of what git tracks. Only the prefix, the host and the port differ from
the image. Run by `make image-check`, not by `make test`: it installs everything from scratch.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PREFIX = "/opt/keepgate"
PYTHON = "/usr/bin/python3"
"""Debian's own: an unprivileged user can run it wherever the tests' own interpreter lies."""


@dataclass(frozen=True)
class Image:
    """The instructions of the Dockerfile, with the prefix moved to `prefix`."""

    prefix: Path
    source: Path
    environment: dict[str, str]
    install: list[str]
    health: list[str]
    start: list[str]

    def run(self, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end as the unprivileged user."""
        return subprocess.run(
            command,
            **self.options(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def options(self) -> dict[str, Any]:
        """Arguments of subprocess: user, environment and folder."""
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        return {"env": self.environment, "cwd": self.source, "umask": 0o022, **user}


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def only(keyword: str, pattern: str = "") -> str:
    """The one instruction with that keyword that matches the pattern."""
    (found,) = [rest for name, rest in instructions() if name == keyword and re.search(pattern, rest)]
    return found


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp(prefix="keepgate-image-"))
    try:
        source = folder / "source"
        source.mkdir()
        archive = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(source)], check=True)
        home = folder / "home"
        home.mkdir()
        folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(home, NOBODY, NOBODY)
        prefix = home / "keepgate"
        environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment |= {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHON": PYTHON}
        settings = only("ENV", "KEEPGATE_HOST").replace(PREFIX, str(prefix))
        for assignment in shlex.split(settings.replace("$PATH", environment["PATH"])):
            name, _, value = assignment.partition("=")
            environment[name] = value
        environment |= {"KEEPGATE_HOST": "127.0.0.1", "KEEPGATE_READY_FILE": str(home / "ready")}
        yield Image(
            prefix,
            source,
            environment,
            only("RUN", "install").replace(PREFIX, str(prefix)).split(),
            json.loads(only("HEALTHCHECK").partition("CMD ")[2]),
            json.loads(only("ENTRYPOINT")) + json.loads(only("CMD")),
        )
    finally:
        shutil.rmtree(folder)


def test_install_serve_health_stop(image: Image) -> None:
    installed = image.run(image.install, timeout=900)
    assert installed.returncode == 0, installed.stdout
    print(installed.stdout)

    commands = {path.name for path in (image.prefix / "bin").iterdir()}
    assert "keepgate" in commands
    assert not {"gcc", "cc", "clang"} & commands

    path = image.environment["PATH"]
    start = [
        str(shutil.which(image.start[0], path=path)),
        *image.start[1:],
        "--port",
        "0",
        "--admin-address",
        "",
        "--http-address",
        "127.0.0.1:0",
    ]
    begin = time.monotonic()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(start, **image.options(), stdout=log, stderr=log)
        try:
            ready = Path(image.environment["KEEPGATE_READY_FILE"])
            while not ready.exists() and server.poll() is None and time.monotonic() < begin + 60:
                time.sleep(0.05)
            log.seek(0)
            assert ready.exists(), log.read().decode()
            health = [str(shutil.which(image.health[0], path=path)), *image.health[1:]]
            address = ready.read_text().strip()
            healthy = image.run([*health, "--server", address], timeout=30)
            assert healthy.returncode == 0, healthy.stdout
            models = image.run([start[0], "list", "--json", "--server", address], timeout=30)
            assert models.returncode == 0, models.stdout
            assert "shakespeare-lstm" in models.stdout
            server.terminate()
            assert server.wait(timeout=30) == 0
            unhealthy = image.run([*health, "--server", address], timeout=30)
            assert unhealthy.returncode == 1
        finally:
            server.kill()
            server.wait()
