"""The command `keepgate` as a process, without a terminal, as scripts run it."""

from __future__ import annotations

import os
import subprocess
import sys

KEEPGATE = [sys.executable, "-m", "keepgate"]


def environment(**extra: str) -> dict[str, str]:
    """This process's, without any setting of Keepgate's but `extra`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KEEPGATE_")}
    return {**clean, "COLUMNS": "80", **extra}


def keepgate(*arguments: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command; `code` is the exit code expected, `extra` goes to the environment."""
    result = subprocess.run(
        [*KEEPGATE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(**extra),
        check=False,
    )
    assert result.returncode == code, result
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    return result
