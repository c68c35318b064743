"""keepgate top: what it makes of two looks, and how it prints."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from keepgate.telemetry.frame import Snapshot, frame_of, quantile
from support.commands import KEEPGATE, environment, keepgate
from support.servers import ServerProcess
from support.wire import connect, failure, step

DEADLINE = 60.0


@pytest.fixture
def traffic(server: ServerProcess) -> Iterator[ServerProcess]:
    """The shared server, on which three sessions of letters/1 are stepped, two at a time and more."""
    over = threading.Event()

    def work() -> None:
        with connect(server.address) as wire:
            sessions = [wire.open(version="1") for _ in range(3)]
            while not over.is_set():
                wire.stream([step(session, "ab") for session in sessions])
                failure(lambda: wire.step("nobody", "a"))
            for session in sessions:
                wire.close(session)

    worker = threading.Thread(target=work)
    worker.start()
    yield server
    over.set()
    worker.join()


def test_one_frame(traffic: ServerProcess) -> None:
    page = keepgate("top", "--once", KEEPGATE_HTTP_ADDRESS=traffic.http_address).stdout
    lines = page.splitlines()
    assert re.match(rf"keepgate \d\S+ at {traffic.http_address}   up ", lines[0])
    assert re.match(r"calls/s \d\S*   failed/s \d\S*   in flight \d", lines[1])
    header, rows = lines[3].split(), [line.split() for line in lines[4:]]
    assert header[0] == "MODEL"
    assert [row[0] for row in rows] == ["ids/1", "letters/1", "letters/2", "vectors/1"]
    row = dict(zip(header, re.split(r" {2,}", lines[5]), strict=True))
    assert int(row["SESSIONS"]) >= 3
    assert float(row["STEPS/S"].replace(",", "")) > 0
    assert re.fullmatch(r"\d\S* (us|ms|s)", row["P99"])


def test_json(traffic: ServerProcess) -> None:
    frame = json.loads(keepgate("top", "--once", "--json", "--http", traffic.http_address).stdout)
    (letters,) = (m for m in frame["models"] if (m["name"], m["version"]) == ("letters", "1"))
    assert letters["resident"] >= 3
    assert letters["steps"] == pytest.approx(2 * letters["requests"], rel=0.2)
    assert 0 < letters["p50"] <= letters["p99"]
    assert letters["batch"] >= 1
    assert frame["failed"] > 0
    assert frame["calls"] > frame["failed"]
    assert frame["failing_stores"] == []


def interruptible(command: list[str]) -> list[str]:
    """The same as from a terminal: what a shell starts in the background ignores SIGINT, its children too."""
    code = "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", f"import os, signal, sys; {code}", *command]


def test_piped_it_goes_on_as_plain_text(server: ServerProcess) -> None:
    top = [*KEEPGATE, "top", "--http", server.http_address, "--interval", "0.1", "--json"]
    command = interruptible(top)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        frames = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 0
    assert [frame["version"] for frame in frames] == [frames[0]["version"]] * 3


def test_live_in_a_terminal(traffic: ServerProcess) -> None:
    ours, theirs = pty.openpty()
    command = [*KEEPGATE, "top", "--http", traffic.http_address, "--interval", "0.2"]
    process = subprocess.Popen(
        interruptible(command),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="150", LINES="30"),
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + DEADLINE
    try:
        while shown.count(b"letters/1") < 2:  # a second frame
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65_536)
    except OSError:  # Linux, when the other end is closed
        process.wait(DEADLINE)
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
    assert process.wait(DEADLINE) == 0
    assert b"EVICTED/S" in shown
    assert b"Traceback" not in shown
    assert b"\x1b[?1049h" in shown  # a screen of its own, and back
    assert b"\x1b[?1049l" in shown


def test_nothing_answers(server: ServerProcess) -> None:
    nobody = keepgate("top", "--once", "--http", "127.0.0.1:1", code=1).stderr
    assert "no Keepgate server tells its metrics at 127.0.0.1:1" in nobody
    assert "KEEPGATE_HTTP_ADDRESS" in nobody
    assert "tells its metrics" in keepgate("top", "--once", "--http", server.address, code=1).stderr  # gRPC's
    assert "tells its metrics" in keepgate("top", "--once", "--http", "nowhere:x", code=1).stderr


def document(steps: int, batches: int, began: int = 1, slow: int = 0) -> str:
    """The metrics of a server that has computed so many steps, `slow` of them in more than 1 ms."""
    key = 'model="m",version="1"'
    return f"""
keepgate_build_info{{version="9",kernel="k"}} 1
keepgate_model_info{{{key},condition="serving"}} 1
process_start_time_seconds {began}
nv_inference_count{{{key}}} {steps}
nv_inference_request_success{{{key}}} {steps}
nv_inference_queue_duration_us{{{key}}} {steps * 50}
keepgate_batch_size_count{{{key}}} {batches}
keepgate_batch_size_sum{{{key}}} {steps}
keepgate_step_seconds_bucket{{{key},le="0.001"}} {steps - slow}
keepgate_step_seconds_bucket{{{key},le="0.002"}} {steps}
keepgate_step_seconds_bucket{{{key},le="+Inf"}} {steps}
"""


def test_rates_are_those_of_the_interval() -> None:
    frame = frame_of(Snapshot(document(100, 50), 10.0), Snapshot(document(500, 100, slow=100), 12.0), 4.0)
    (model,) = frame.models
    assert (frame.version, frame.kernel, frame.seconds, frame.up) == ("9", "k", 2.0, 3.0)
    assert (model.steps, model.requests, model.batch) == (200.0, 200.0, 8.0)
    assert model.queue == pytest.approx(50e-6)
    assert model.p50 == pytest.approx(0.001 * 200 / 300)  # 300 of the 400 took at most 1 ms
    assert model.p99 == pytest.approx(0.00196)


def test_a_server_that_started_again_counts_from_zero() -> None:
    frame = frame_of(
        Snapshot(document(100, 50, began=1), 10.0), Snapshot(document(300, 100, began=2), 11.0), 4.0
    )
    assert frame.models[0].steps == 300.0


def test_nothing_done() -> None:
    snapshot = document(7, 7)
    (model,) = frame_of(Snapshot(snapshot, 1.0), Snapshot(snapshot, 2.0), 3.0).models
    assert (model.steps, model.batch, model.p50, model.queue) == (0.0, None, None, None)


@pytest.mark.parametrize("text", ["", "up 1\n"])
def test_what_is_no_server_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match="there is no keepgate_build_info"):
        Snapshot(text, 0.0)


def test_quantiles() -> None:
    infinite = float("inf")
    assert quantile([(1.0, 0.0), (2.0, 10.0), (infinite, 10.0)], 0.5) == 1.5
    assert quantile([(1.0, 5.0), (2.0, 5.0), (infinite, 10.0)], 0.99) == 2.0
    assert quantile([(1.0, 10.0), (infinite, 10.0)], 0.1) == pytest.approx(0.1)
    assert quantile([(1.0, 0.0), (infinite, 0.0)], 0.5) is None
    assert quantile([], 0.5) is None
