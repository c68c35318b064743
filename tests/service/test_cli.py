"""The command `keepgate` as a process, as people and scripts run it."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keepgate.config import Settings
from keepgate_client import Client
from keepgate_kernels import PRECISIONS, cpu_info
from support.commands import KEEPGATE, environment, keepgate
from support.servers import START_SECONDS, ServerProcess

COMMANDS = [
    "serve",
    "list",
    "show",
    "generate",
    "score",
    "sessions",
    "fork",
    "rewind",
    "export",
    "import",
    "info",
    "health",
    "top",
    "reload",
    "load",
    "unload",
    "drain",
]
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 300


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def open_sessions(client: Client) -> set[str]:
    return {session.session_id for session in client.sessions()}


@pytest.fixture
def ask(server: ServerProcess) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command against the shared server."""

    def run(*arguments: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        return keepgate(*arguments, code=code, KEEPGATE_SERVER=server.address, **extra)

    return run


Ask = Callable[..., subprocess.CompletedProcess[str]]


def test_help_and_version() -> None:
    commands = keepgate("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", commands, re.MULTILINE)
        assert "Usage: " in keepgate(name, "--help").stdout
    assert re.fullmatch(r"keepgate \d+\.\d+\.\d+\n", keepgate("--version").stdout)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from keepgate.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'numpy', 'grpc', 'pydantic', 'structlog', 'safetensors'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "set()"


def test_every_setting_is_a_flag() -> None:
    page = keepgate("serve", "--help").stdout
    flags = set(re.findall(r"^  (?:-\w, )?--([a-z-]+)", page, re.MULTILINE))
    assert {name.replace("_", "-") for name in Settings.model_fields} <= flags
    assert "[default: 127.0.0.1]" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--port", "eighty"], "port: got 'eighty'"),
        (["serve", "--no-such-flag"], "No such option"),
        (["generate", "letters"], "Missing argument 'PROMPT'"),
        (["generate", "letters", ""], "expected at least one character"),
        (["generate", "letters", "a", "-n", "0"], "-n"),
        (["generate", "letters", "a", "-n", str(2**32)], "-n"),
        (["generate", "letters", "a", "--seed", str(2**64)], "--seed"),
        (["generate", "letters", "a", "--seed", "-1"], "--seed"),
        (["generate", "letters", "a", "--top-k", str(2**32)], "--top-k"),
        (["generate", "letters", "a\udcff"], r"'PROMPT': got b'a\xff', expected UTF-8 text"),
        (["generate", "a\udcff", "a"], r"'MODEL': got b'a\xff', expected UTF-8 text"),
        (["show", "a\udcff"], r"'MODEL': got b'a\xff', expected UTF-8 text"),
        (["sessions", "--model", "a\udcff"], r"got b'a\xff', expected UTF-8 text"),
        (["list", "-s", "a\udcff"], r"got b'a\xff', expected UTF-8 text"),
        (["list", "-s", ""], "got '', expected host:port"),
        (["health", "-s", " "], "got ' ', expected host:port"),
        (["fork", "a\udcff"], r"'SESSION': got b'a\xff', expected UTF-8 text"),
        (["fork", "a", "--durability", "ever"], "'ever' is not one of"),
        (["fork", "a", "--idle-ttl", "nan"], "--idle-ttl"),
        (["fork", "a", "--idle-ttl", "inf"], "--idle-ttl"),
        (["rewind", "a", "-1"], "-1"),
        (["rewind", "a", str(2**64)], "POSITION"),
        (["export", "a"], "Missing argument 'FILE'"),
        (["export", "a", "/"], "is a directory"),
        (["import", "/"], "is a directory"),
        (["score", "letters", "/no/such/file"], "/no/such/file"),
        (["show", "letters", "--models", "/no/such/folder"], "/no/such/folder"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str) -> None:
    result = keepgate(*arguments, code=2)
    assert message in result.stderr
    assert result.stderr.startswith("Usage: ")
    assert result.stdout == ""


def test_unreachable_server() -> None:
    for command in (["list"], ["generate", "letters", "a"], ["sessions"]):
        result = keepgate(*command, "--server", "127.0.0.1:1", code=1)
        assert "no server answers at 127.0.0.1:1" in result.stderr
        assert "keepgate serve" in result.stderr
        assert result.stdout == ""
    assert "127.0.0.1:1 does not answer" in keepgate("health", KEEPGATE_PORT="1", code=1).stderr


def test_list(ask: Ask) -> None:
    rows = [line.split() for line in ask("list").stdout.splitlines()]
    assert rows[0] == ["MODEL", "LAYERS", "INPUT", "PARAMETERS", "WEIGHTS", "SESSIONS"]
    assert [row[0] for row in rows[1:]] == ["ids/1", "letters/1", "letters/2", "vectors/1"]
    assert all("fp32" in row for row in rows[1:])
    models = json.loads(ask("list", "--json").stdout)
    assert [(m["name"], m["input"]["kind"], m["head"]["kind"]) for m in models] == [
        ("ids", "token", "categorical"),
        ("letters", "token", "categorical"),
        ("letters", "token", "categorical"),
        ("vectors", "feature", "linear"),
    ]


def test_show(ask: Ask, repository: Path) -> None:
    page = ask("show", "letters/1").stdout
    for fact in (
        "letters/1",
        "random weights",
        "LSTM, 16 units",
        "30 characters",
        "CC0-1.0",
        "128 B a session",
    ):
        assert fact in page
    online = json.loads(ask("show", "letters", "--json").stdout)
    offline = json.loads(keepgate("show", "letters", "--json", "--models", str(repository)).stdout)
    assert offline == {**online, "sessions": 0}
    assert online["version"] == "2"
    assert "loaded: ids/1, letters/1" in ask("show", "nothing", code=1).stderr
    missing = keepgate("show", "letters/7", "--models", str(repository), code=1).stderr
    assert "letters/7" in missing
    assert "letters/2" in missing


def test_generate_writes_the_text_alone(ask: Ask, client: Client) -> None:
    options = ["-n", "40", "--temperature", "0.9", "--top-k", "8", "--top-p", "0.9", "--seed", "5"]
    result = ask("generate", "letters/1", "hello ", *options)
    with client.open("letters", "1") as session:
        tokens = session.generate("hello ", max_tokens=40, temperature=0.9, top_k=8, top_p=0.9, seed=5)
        expected = "".join(token.text for token in tokens)
    assert result.stdout.rstrip("\n") == expected.rstrip("\n")
    assert result.stdout.endswith("\n")
    assert result.stderr == ""


def test_generate_streams_on_a_terminal(server: ServerProcess) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*KEEPGATE, "generate", "letters", "hello ", "-n", "30", "--server", server.address],
        stdout=terminal,
        stderr=terminal,
        stdin=terminal,
        env=environment(TERM="xterm"),
    )
    assert process.wait(60) == 0
    os.close(terminal)
    screen = os.read(controller, 65_536).decode()
    os.close(controller)
    assert "hello " in screen
    assert "30 characters in" in screen


def test_generate_into_a_reader_that_leaves(server: ServerProcess, client: Client) -> None:
    before = open_sessions(client)
    command = [*KEEPGATE, "generate", "letters", "a", "-n", "10000", "--server", server.address]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 128 + signal.SIGPIPE
    assert open_sessions(client) <= before  # other tests left theirs on the shared server


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "letters", "a", "-n", "10000"],
        ["list"],
        ["sessions", "--json"],
        ["--version"],
        ["--help"],
    ],
)
def test_output_that_cannot_be_written(arguments: list[str], server: ServerProcess, client: Client) -> None:
    before = open_sessions(client)
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*KEEPGATE, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment(KEEPGATE_SERVER=server.address),
            check=False,
        )
    assert (result.returncode, result.stderr) == (1, "keepgate: [Errno 28] No space left on device\n")
    assert open_sessions(client) <= before  # other tests left theirs on the shared server


def test_generate_refused(ask: Ask) -> None:
    assert "loaded: ids/1" in ask("generate", "nothing", "a", code=1).stderr
    assert "'A'" in ask("generate", "letters", "Abc", code=1).stderr


def test_models_without_text_are_refused(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("abc")
    for command in (["generate", "{}", "abc"], ["score", "{}", str(file)]):
        for model, takes in (("vectors", "feature vectors"), ("ids", "token ids and has no tokenizer")):
            refused = ask(*(word.format(model) for word in command), code=1).stderr
            expected = f"model '{model}/1' takes {takes}; expected a token model that takes text"
            assert refused == f"keepgate: {expected}\n"


def test_score(ask: Ask, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text(TEXT)
    result = json.loads(ask("score", "letters", str(file), "--json").stdout)
    expected = client.score("letters", text=TEXT)
    assert result["characters"] == expected.scored == len(TEXT) - 1
    assert math.isclose(result["bits_per_character"], expected.bits_per_token, rel_tol=1e-9)
    assert (result["model"], result["precision"]) == ("letters/2", "fp32")
    line = ask("score", "letters", str(file)).stdout
    assert line.startswith(f"{expected.bits_per_token:.4f} bits a character")
    file.write_text(TEXT + "oh No\n")
    refused = ask("score", "letters", str(file), code=1).stderr
    assert f"{file}, line 301: got 'N'" in refused
    file.write_bytes(b"abc\xff")
    assert "not UTF-8" in ask("score", "letters", str(file), code=1).stderr


def test_an_unknown_rung_is_told_without_a_traceback() -> None:
    result = keepgate("info", KEEPGATE_CPU="sse9", code=1)
    assert result.stderr.startswith("keepgate: KEEPGATE_CPU: got 'sse9', expected one of avx512-bf16")


def test_info_asks_no_server() -> None:
    facts = json.loads(keepgate("info", "--json", KEEPGATE_SERVER="127.0.0.1:1").stdout)
    assert facts["rung"] == cpu_info()["rung"]
    assert {"python", "numba", "llvmlite", "numpy", "grpcio", "keepgate"} <= set(facts)
    assert facts["rung"] in keepgate("info").stdout
    assert tuple(facts["precisions"].split()) == PRECISIONS
    assert int(facts["usable_cores"]) >= 1
    assert facts["cuda"].startswith(("none: ", "sm_"))


def test_serve_takes_flags_over_environment_over_file(repository: Path, tmp_path: Path) -> None:
    config = tmp_path / "keepgate.toml"
    config.write_text('max_sessions = 1\nlog_format = "json"\nmodels = "/nowhere"\n')
    ready = tmp_path / "ready"
    command = [*KEEPGATE, "serve", "--models", str(repository), "--port", "0", "--ready-file", str(ready)]
    command += ["--admin-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
    # --models beats KEEPGATE_MODELS, which beats the file's; max_sessions comes from the file.
    extra = {"KEEPGATE_CONFIG": str(config), "KEEPGATE_MODELS": "/elsewhere"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**extra)
    ) as process:
        try:
            wait = f"import pathlib, time\nwhile not pathlib.Path({str(ready)!r}).exists(): time.sleep(0.02)"
            subprocess.run([sys.executable, "-c", wait], timeout=START_SECONDS, check=True)
            address = ready.read_text().strip()
            assert keepgate("health", "--server", address).stdout == "SERVING\n"
            with Client(address) as client, client.open("letters"):
                assert len(list(client.sessions())) == 1
                refused = keepgate("generate", "letters", "a", "--server", address, code=1).stderr
                assert "1 sessions" in refused
        finally:
            process.send_signal(signal.SIGTERM)
            log, _ = process.communicate(timeout=60)
        assert process.returncode == 0, log
    assert '"event": "ready"' in log


def test_serve_tells_why_it_cannot(tmp_path: Path, server: ServerProcess, repository: Path) -> None:
    assert "no model in" in keepgate("serve", "--models", str(tmp_path), "--port", "0", code=1).stderr
    port = server.address.rsplit(":", 1)[1]
    taken = keepgate("serve", "--models", str(repository), "--port", port, code=1)
    assert port in taken.stderr + taken.stdout
