"""The commands about sessions, as processes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keepgate_client import Client
from support.commands import KEEPGATE, environment, keepgate
from support.servers import ServerProcess

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def ask(server: ServerProcess) -> Ask:
    """Run a command against the shared server."""

    def run(*arguments: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        return keepgate(*arguments, code=code, KEEPGATE_SERVER=server.address, **extra)

    return run


def test_sessions(start_server: Callable[..., ServerProcess]) -> None:
    address = start_server().address
    with Client(address) as client, client.open("ids", session_id="listed-by-the-command") as session:
        session.step(tokens=[1, 2, 3])
        shown = keepgate("sessions", "--model", "ids", KEEPGATE_SERVER=address).stdout
        assert re.search(r"listed-by-the-command +ids/1 +none +resident +3 +- ", shown)
        (listed,) = json.loads(keepgate("sessions", "--json", KEEPGATE_SERVER=address).stdout)
        assert (listed["session_id"], listed["position"]) == ("listed-by-the-command", 3)
        assert (listed["durability"], listed["residency"]) == ("none", "resident")
        assert (listed["durable_position"], "oldest_position" in listed) == (0, False)
        assert keepgate("sessions", "--model", "letters", "--json", KEEPGATE_SERVER=address).stdout == "[]\n"
    empty = keepgate("sessions", KEEPGATE_SERVER=address)
    assert (empty.stdout, empty.stderr) == ("", "No session is open.\n")


def test_sessions_tell_how_durable_they_are(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server(store=f"sqlite:{tmp_path / 'sessions.db'}", slots=1)
    with Client(server.address) as client:
        for durability in ("always", "none"):
            client.open("ids", session_id=durability, durability=durability).step(tokens=[1, 2, 3])
    head, always, none = keepgate("sessions", KEEPGATE_SERVER=server.address).stdout.splitlines()
    assert head.split()[:6] == ["SESSION", "MODEL", "DURABILITY", "STATE", "POSITION", "STORED"]
    assert re.match(r"always +ids/1 +always +(memory|store) +3 +3 ", always)
    assert re.match(r"none +ids/1 +none +resident +3 +- ", none)


def test_fork(ask: Ask, client: Client) -> None:
    with client.open("letters") as session:
        session.step(text="hello")
        named = ask("fork", session.session_id, "--id", "forked-by-the-command", "--idle-ttl", "99.5")
        assert (named.stdout, named.stderr) == ("forked-by-the-command\n", "")
        unnamed = ask("fork", session.session_id, "--durability", "none").stdout.strip()
        expected = session.step(text="x", logits=True)
        with client.attach("forked-by-the-command") as fork, client.attach(unnamed) as other:
            assert fork.describe().idle_ttl.total_seconds() == 99.5
            assert fork.step(text="x", logits=True) == other.step(text="x", logits=True) == expected
        refused = ask("fork", session.session_id, "--durability", "always", code=1).stderr
        assert refused.startswith("keepgate: durability: got DURABILITY_ALWAYS, expected NONE")
    assert "'nobody' is unknown" in ask("fork", "nobody", code=1).stderr


def test_rewind(ask: Ask, client: Client) -> None:
    with client.open("letters", session_id="rewound") as session:
        session.step(text="hello")
        told = ask("rewind", "rewound", "2")
        assert (told.stdout, told.stderr) == ("", "Session 'rewound' is at position 2; it was at 5.\n")
        assert session.resync().position == 2
        refused = ask("rewind", "rewound", "3", code=1).stderr
        assert refused == "keepgate: position: got 3, expected 0 to 2, which session 'rewound' retains\n"


def test_export_and_import(ask: Ask, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "session"
    with client.open("letters", "1", session_id="carried") as session:
        session.step(text="hello")
        told = ask("export", "carried", str(file))
        assert (told.stdout, told.stderr) == ("", f"Session 'carried' takes {file.stat().st_size} B.\n")
        assert file.read_bytes() == session.export()
        brought = ask("import", str(file), "--id", "brought", "--idle-ttl", "99.5")
        assert (brought.stdout, brought.stderr) == ("brought\n", "letters/1 at position 5\n")
        other = ask("import", str(file), "--model", "letters/1").stdout.strip()
        expected = session.step(text="x", logits=True)
        with client.attach("brought") as first, client.attach(other) as second:
            assert first.describe().idle_ttl.total_seconds() == 99.5
            assert first.step(text="x", logits=True) == second.step(text="x", logits=True) == expected
        assert "weights" in ask("import", str(file), "--model", "letters/2", code=1).stderr
        assert (
            "No such file or directory" in ask("export", "carried", str(tmp_path / "no" / "f"), code=1).stderr
        )
    before = file.read_bytes()
    assert "is closed" in ask("export", "carried", str(file), code=1).stderr
    assert file.read_bytes() == before
    file.write_bytes(before[:-1])
    assert "damaged" in ask("import", str(file), code=1).stderr
    assert "No such file or directory" in ask("import", str(tmp_path / "none"), code=1).stderr
    file.write_bytes(b"")
    assert "0 bytes, too few" in ask("import", str(file), code=1).stderr


def test_a_session_goes_through_a_pipe(server: ServerProcess, client: Client) -> None:
    with client.open("letters") as session:
        session.step(text="hello")
        extra = environment(KEEPGATE_SERVER=server.address)
        pipe = subprocess.run(
            [*KEEPGATE, "export", session.session_id, "-"],
            capture_output=True,
            env=extra,
            check=True,
            timeout=60,
        )
        assert pipe.stdout == session.export()
        imported = subprocess.run(
            [*KEEPGATE, "import", "-"],
            input=pipe.stdout,
            capture_output=True,
            env=extra,
            check=True,
            timeout=60,
        )
        with client.attach(imported.stdout.decode().strip()) as copy:
            assert copy.step(text="x", logits=True) == session.step(text="x", logits=True)
