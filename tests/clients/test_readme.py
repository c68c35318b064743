"""What the READMEs show works: every Python block runs against a server with the bundled models."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import ServerProcess

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "clients/python/README.md")
SHOWN_ADDRESS = "127.0.0.1:8001"


def blocks() -> Iterator[object]:
    for name in READMES:
        text = (ROOT / name).read_text()
        for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start(1))
            yield pytest.param(name, line, block[1], id=f"{name}:{line + 1}")


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server as it starts without any settings, but for the port."""
    process = ServerProcess(tmp_path_factory.mktemp("bundled"), {}).wait_ready()
    yield process
    assert process.stop() == 0, process.log()


@pytest.mark.parametrize(("name", "line", "source"), list(blocks()))
def test_block(name: str, line: int, source: str, bundled: ServerProcess) -> None:
    # Blank lines in front, so that a traceback shows the README's own line.
    program = "\n" * line + source.replace(SHOWN_ADDRESS, bundled.address)
    if "import tritonclient" in source:  # which cannot be in one process with the server's own messages
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "(1, 78)" in ran.stdout
        return
    exec(compile(program, str(ROOT / name), "exec"), {"__name__": "__main__"})  # noqa: S102


def test_there_are_examples() -> None:
    for name in READMES:
        assert SHOWN_ADDRESS in (ROOT / name).read_text()
