"""TLS and mutual TLS, with real certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from keepgate.errors import ConfigError
from keepgate.security.tls import Files, read_certificates
from keepgate_client import (
    TLS,
    AsyncClient,
    Client,
    KeepgateError,
    RetryPolicy,
    SessionNotFoundError,
    TokenMissingError,
    UnreachableError,
)
from support.certificates import Authority, encrypted
from support.commands import keepgate
from support.operator import wait_for
from support.servers import ServerProcess
from support.tokens import TokenFile

Start = Callable[..., ServerProcess]
ONCE = RetryPolicy(attempts=1)


def client(server: ServerProcess, authority: Authority, **more: object) -> Client:
    return Client(server.address, tls=TLS(ca=authority.pem, **more), retry=ONCE)  # type: ignore[arg-type]


def test_the_connection_is_encrypted(start_server: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    server = start_server(tls_cert=cert, tls_key=key)
    with client(server, authority) as encrypted_one, encrypted_one.open("letters") as session:
        assert session.step(text="abc").position == 3
    ca = authority.write(tmp_path / "ca.pem")

    async def steps() -> int:
        async with (
            AsyncClient(server.address, tls=TLS(ca=ca)) as one,
            one.open("letters") as session,
            one.stream() as stream,
        ):
            return (await stream.step(session, text="ab")).position

    assert asyncio.run(steps()) == 2
    for stranger in (
        Client(server.address, retry=ONCE),
        Client(server.address, tls=True, retry=ONCE),
        client(server, Authority("another root")),
        client(server, authority, server_name="keepgate.example"),
    ):
        with stranger, pytest.raises(UnreachableError):
            stranger.models()


def test_mutual_tls_wants_a_certificate(start_server: Start, tmp_path: Path) -> None:
    authority, clients = Authority(), Authority("the clients' root")
    cert, key = authority.server().write(tmp_path, "server")
    server = start_server(
        tls_cert=cert, tls_key=key, tls_client_ca=clients.write(tmp_path / "clients.pem"), tls_principal=True
    )
    alice, bob = clients.client("alice"), clients.client("robert", uri="spiffe://example/bob")
    with client(server, authority, cert=alice.cert, key=alice.key) as one:
        session = one.open("letters", session_id="mine")
        assert session.step(text="ab").position == 2
        with one.stream() as stream:
            assert stream.step(session, text="c").result().position == 3
        assert [info.session_id for info in one.sessions()] == ["mine"]
    with client(server, authority, cert=bob.cert, key=bob.key) as other:
        assert list(other.sessions()) == []
        with pytest.raises(SessionNotFoundError):
            other.attach("mine")
    signed_by_another = authority.client("alice")
    for stranger in (
        client(server, authority),
        client(server, authority, cert=signed_by_another.cert, key=signed_by_another.key),
    ):
        with stranger, pytest.raises(KeepgateError):
            stranger.models()
    with pytest.raises(ValueError, match="expected both or none"):
        TLS(cert=alice.cert)


def test_a_certificate_gives_no_right_to_admin(start_server: Start, tmp_path: Path) -> None:
    """Its listener is on loopback, in plain text: nobody shows a certificate there."""
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.pem")
    file = TokenFile(tmp_path / "tokens.toml")
    token = file.add("operator", ["admin"])
    server = start_server(
        tls_cert=cert, tls_key=key, tls_client_ca=ca, tls_principal=True, tokens_file=file.path
    )
    refused = keepgate("reload", "--admin", server.admin_address, code=1)
    assert "got no token" in refused.stderr
    done = keepgate("reload", "--admin", server.admin_address, KEEPGATE_TOKEN=token)
    assert done.stdout == "nothing changed\n"


def test_with_a_token_the_certificate_is_not_asked_who_calls(start_server: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    file = TokenFile(tmp_path / "tokens.toml")
    token = file.add("carol")
    ca = authority.write(tmp_path / "ca.pem")
    settings = {"tls_cert": cert, "tls_key": key, "tls_client_ca": ca, "tokens_file": file.path}
    server = start_server(**settings)
    alice = authority.client("alice")
    tls = TLS(ca=ca, cert=alice.cert, key=alice.key)
    with Client(server.address, tls=tls) as nobody, pytest.raises(TokenMissingError):
        nobody.models()
    with Client(server.address, tls=tls, token=token) as carol:
        carol.open("letters", session_id="carols")
        assert [info.session_id for info in carol.sessions()] == ["carols"]


def test_new_certificates_are_taken_without_a_restart(start_server: Start, tmp_path: Path) -> None:
    old, new = Authority(), Authority("a new root")
    cert, key = old.server().write(tmp_path, "server")
    server = start_server(tls_cert=cert, tls_key=key)
    with client(server, old) as before:
        session = before.open("letters")
        cert.write_bytes(b"-----BEGIN CERTIFICATE-----\nbroken\n")
        wait_for(lambda: "not reloaded" in server.log())
        with client(server, old) as another:
            assert another.models()

        new.server().write(tmp_path, "server")
        wait_for(lambda: "certificates reloaded" in server.log())
        with client(server, new) as another:
            assert another.models()
        with client(server, old) as another, pytest.raises(UnreachableError):
            another.models()
        assert session.step(text="a").position == 1  # its connection was there before


def test_certificates_that_cannot_be_served(tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    _, other = authority.server().write(tmp_path, "other")
    locked = tmp_path / "locked.key"
    locked.write_bytes(encrypted(key.read_bytes()))
    text = tmp_path / "text"
    text.write_text("a certificate")
    half = tmp_path / "half"
    half.write_bytes(cert.read_bytes()[:100])
    nowhere = tmp_path / "nowhere"
    good = read_certificates(Files(cert, key, authority.write(tmp_path / "ca.pem")))
    assert (good.cert, good.key, good.client_ca) == (cert.read_bytes(), key.read_bytes(), authority.pem)
    for files, fault in (
        (Files(nowhere, key), f"tls_cert: {nowhere} cannot be read: No such file or directory"),
        (Files(cert, nowhere), f"tls_key: {nowhere} cannot be read: No such file or directory"),
        (Files(cert, tmp_path), f"tls_key: {tmp_path} cannot be read: Is a directory"),
        (Files(text, key), f"tls_cert: {text} is no PEM file"),
        (Files(half, key), f"tls_cert, tls_key: {half} and {key} hold no certificate and key in PEM"),
        (Files(cert, other), f"tls_key: {other} is not the key of {cert}"),
        (Files(cert, locked), f"tls_key: {locked} is encrypted, expected a key without a password"),
        (Files(cert, key, nowhere), f"tls_client_ca: {nowhere} cannot be read: No such file or directory"),
        (Files(cert, key, half), f"tls_client_ca: {half} holds no certificate in PEM"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_certificates(files)
        assert str(caught.value) == fault


def test_a_server_does_not_start_with_the_wrong_key(tmp_path: Path, repository: Path) -> None:
    authority = Authority()
    cert, _ = authority.server().write(tmp_path, "server")
    _, other = authority.server().write(tmp_path, "other")
    arguments = ("--models", str(repository), "--port", "0", "--tls-cert", str(cert))
    result = keepgate("serve", *arguments, "--tls-key", str(other), code=1)
    assert f"tls_key: {other} is not the key of {cert}" in result.stderr
    result = keepgate("serve", *arguments, code=2)
    assert "tls_key: got nothing, expected it beside tls_cert" in result.stderr


def test_the_command_line(start_server: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.pem")
    file = TokenFile(tmp_path / "tokens.toml")
    token = tmp_path / "token"
    token.write_text(file.add("alice") + "\n")
    server = start_server(tls_cert=cert, tls_key=key, tokens_file=file.path)
    at = ("--server", server.address, "--tls-ca", str(ca))
    assert keepgate("health", *at).stdout == "SERVING\n"
    assert "got no token" in keepgate("sessions", *at, code=1).stderr
    assert "does not answer" in keepgate("health", "--server", server.address, code=1).stderr
    listed = keepgate("list", *at, "--token-file", str(token))
    assert "letters" in listed.stdout
    generated = keepgate(
        "generate",
        "letters",
        "ab",
        "-n",
        "5",
        *at[:2],
        KEEPGATE_TLS_CA=str(ca),
        KEEPGATE_TOKEN_FILE=str(token),
    )
    assert generated.stdout.strip("\n")
    missing = keepgate("list", *at, "--token-file", str(tmp_path / "nowhere"), code=2)
    assert "does not exist" in missing.stderr
    assert keepgate("list", "--tls", *at[:2], code=1).stderr


def test_admin_is_encrypted_where_the_network_sees_it(start_server: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.pem")
    file = TokenFile(tmp_path / "tokens.toml")
    token = file.add("operator", ["admin"])
    everywhere = "0.0.0.0:0"
    server = start_server(tls_cert=cert, tls_key=key, tokens_file=file.path, admin_address=everywhere)
    address = f"127.0.0.1:{server.admin_address.rpartition(':')[2]}"
    done = keepgate("reload", "--admin", address, "--tls-ca", str(ca), KEEPGATE_TOKEN=token)
    assert done.stdout == "nothing changed\n"
    assert "got no token" in keepgate("reload", "--admin", address, "--tls-ca", str(ca), code=1).stderr
    assert "not reachable" in keepgate("reload", "--admin", address, KEEPGATE_TOKEN=token, code=1).stderr
    assert '"level": "warning"' not in server.log()
    open_one = start_server(admin_address=everywhere, host="0.0.0.0")  # noqa: S104
    wait_for(lambda: "the Admin service is open to the network" in open_one.log())
    assert "whoever reaches the server may do everything" in open_one.log()


def test_credentials_of_ones_own(start_server: Start, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.server().write(tmp_path, "server")
    server = start_server(tls_cert=cert, tls_key=key)
    credentials = grpc.ssl_channel_credentials(authority.pem)
    with Client(server.address, credentials=credentials) as own:
        assert own.models()
