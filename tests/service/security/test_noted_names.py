"""What a stranger calls is noted in the server's words, not in the stranger's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from keepgate.logs import escape_controls
from support.collector import Collector, collector, plain
from support.http2 import http2
from support.servers import ServerProcess
from support.tokens import TokenFile

CLEAR_SCREEN = "\x1b[2J"
MADE_UP = [
    f"/{CLEAR_SCREEN}forged/M".encode(),
    b"/a\tb/M",
    b"/made.Up/M",
    b"/keepgate.v1.Sequences/" + b"x" * 4_000,
]
REAL = b"/keepgate.v1.Sequences/Open"
WATCH = b"/grpc.health.v1.Health/Watch"


@pytest.fixture
def spans() -> Iterator[Collector]:
    with collector() as listening:
        yield listening


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_names_that_are_made_up_are_unknown(
    repository: Path, tmp_path: Path, spans: Collector, log_format: str
) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    file.add("alice")
    settings = {
        "models": repository,
        "tokens_file": file.path,
        "traces": f"http://{spans.address}",
        "log_format": log_format,
    }
    soon = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
    server = ServerProcess(tmp_path / "server", settings, soon).wait_ready()
    try:
        with http2(server.address) as stranger:
            for path in (*MADE_UP, REAL, WATCH):
                stranger.wait_headers(stranger.call(path))
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.kill()
    names = ["unknown"] * len(MADE_UP) + [REAL.decode(), WATCH.decode()]
    lines = [line for line in server.log().splitlines() if "TOKEN_MISSING" in line]
    assert len(lines) == len(names)
    for line, name in zip(lines, names, strict=True):
        assert name in line if log_format == "human" else json.loads(line)["method"] == name
        assert len(line) < 1_000
    assert "\x1b" not in server.log()
    assert "forged" not in server.log()
    assert sorted(span.name for span in spans.spans) == sorted(name.removeprefix("/") for name in names)
    for span in spans.spans:
        assert plain(span.attributes)["rpc.method"] == span.name


def test_lines_for_people_have_no_control_characters() -> None:
    event = {"event": "one\ntwo", "name": f"{CLEAR_SCREEN}é\x9b", "count": 3, "exception": "a\nb"}
    assert escape_controls(None, "info", event) == {
        "event": "one\\ntwo",
        "name": "\\x1b[2Jé\\x9b",
        "count": 3,
        "exception": "a\nb",
    }
