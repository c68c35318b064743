"""The file of tokens: what it may hold, and that a server follows it."""

from __future__ import annotations

import datetime
import os
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from keepgate.errors import ConfigError, TokenExpiredError, TokenInvalidError
from keepgate.security.tokens import entry, new_token, read_tokens
from support.commands import keepgate
from support.operator import wait_for
from support.servers import ServerProcess
from support.tokens import TokenFile, connect_as
from support.wire import failure

Start = Callable[..., ServerProcess]
NOW = 1.8e9
DIGEST = sha256(b"secret").hexdigest()
GOOD = f'[[token]]\nprincipal = "alice"\nsha256 = "{DIGEST}"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_token_is_found_by_itself_alone(path: Path) -> None:
    path.write_text(GOOD)
    grant = read_tokens(path).find("secret", NOW)
    assert (grant.principal, sorted(grant.scopes)) == ("alice", ["models", "sequences"])
    for other in ("", "Secret", "secret ", DIGEST, "\udcff", "é"):
        with pytest.raises(TokenInvalidError):
            read_tokens(path).find(other, NOW)


def test_a_token_lives_until_its_time(path: Path) -> None:
    path.write_text(GOOD + "expires = 2027-01-01T00:00:00Z\n")
    end = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC).timestamp()
    table = read_tokens(path)
    assert table.find("secret", end - 0.001).principal == "alice"
    with pytest.raises(TokenExpiredError):
        table.find("secret", end)


def test_a_principal_may_have_several(path: Path) -> None:
    old, new = new_token(), new_token()
    assert old != new
    path.write_text(entry(old, "alice") + entry(new, "alice", ["admin"]))
    table = read_tokens(path)
    assert [table.find(token, NOW).principal for token in (old, new)] == ["alice", "alice"]
    assert table.find(new, NOW).scopes == {"admin"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "got no [[token]], expected at least one"),
        ("token = 3", "got no [[token]]"),
        ("token = [3]", "token 1: got a value, expected [[token]]"),
        ("[[token", "Expected"),
        ("[[tokens]]", "got 'tokens', expected nothing but [[token]]"),
        (GOOD + GOOD, "token 2: sha256: the same as of an earlier one"),
        (GOOD + "scope = 'admin'", "token 1: got 'scope', expected one of"),
        (GOOD + "scopes = ['root']", "token 1: scopes: got ['root'], expected a list of sequences, models"),
        (GOOD + "scopes = []", "token 1: scopes: got []"),
        (GOOD + "expires = 2027-01-01", "token 1: expires: got 2027-01-01, expected a time with its offset"),
        (GOOD + "expires = 2027-01-01T00:00:00", "token 1: expires: got 2027-01-01 00:00:00"),
        (GOOD.replace("alice", ""), "token 1: principal: got ''"),
        (GOOD.replace("alice", "a b"), "token 1: principal: got 'a b'"),
        (GOOD.replace(DIGEST, "secret"), "token 1: sha256: expected 64 hexadecimal digits"),
    ],
)
def test_what_is_wrong_is_named(path: Path, text: str, fault: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_tokens(path)
    assert str(caught.value).startswith(f"tokens_file: {path}: ")
    assert fault in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_tokens(path)


def test_a_server_does_not_start_without_its_tokens(path: Path, repository: Path) -> None:
    result = keepgate("serve", "--models", str(repository), "--port", "0", "--tokens-file", str(path), code=1)
    assert f"tokens_file: {path} cannot be read: No such file or directory" in result.stderr


def test_a_server_follows_the_file(start_server: Start, path: Path) -> None:
    file = TokenFile(path)
    first = file.add("alice")
    server = start_server(tokens_file=path)

    def reason(token: str) -> str:
        with connect_as(server.address, token) as wire:
            return failure(lambda: wire.describe("nobody")).reason

    known = "SESSION_NOT_FOUND"
    with connect_as(server.address, first) as wire:
        session = wire.open()
    second = file.add("alice")
    wait_for(lambda: reason(second) == known)
    with connect_as(server.address, second) as wire:  # the principal is the same, and so are its sessions
        assert wire.step(session, "a").position == 1
    file.remove(first)
    wait_for(lambda: reason(first) == "TOKEN_INVALID")
    assert reason(second) == known

    path.write_text("[[token]")
    wait_for(lambda: "not reloaded" in server.log())
    assert reason(second) == known
    path.unlink()
    wait_for(lambda: "No such file" in server.log())
    assert reason(second) == known


def test_sighup_reads_the_file(start_server: Start, path: Path) -> None:
    path.write_text(GOOD)
    server = start_server(tokens_file=path)
    before = path.stat()
    path.write_text(GOOD.replace(DIGEST, sha256(b"censor").hexdigest()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "tokens reloaded" in server.log())
    with connect_as(server.address, "censor") as wire:
        assert wire.open()


def test_the_command_makes_entries_that_a_server_takes(start_server: Start, path: Path) -> None:
    made = keepgate("token", "alice", "--scope", "sequences", "--scope", "admin", "--days", "30")
    token = made.stderr.strip()
    assert token.startswith("kg_")
    assert token not in made.stdout
    path.write_text(made.stdout)
    server = start_server(tokens_file=path)
    with connect_as(server.address, token) as wire:
        assert wire.open()
    wrong = keepgate("token", "alice", "--scope", "root", code=2)
    assert "scopes: got ['root']" in wrong.stderr
