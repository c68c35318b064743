"""Certificates: read, checked, and given to gRPC anew when their files change."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from keepgate.errors import ConfigError
from keepgate.models.format import Stamp

MAX_FILE_BYTES = 1 << 20
READS = 3
"""Times that files are read which change meanwhile."""


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files. cert: the server's chain, its own certificate first; key: in plain. client_ca: who signs the
    certificates that clients must show; None if they need none."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def stamps(self) -> list[Stamp | None]:
        """What changes when a file does; None for one that is not there."""
        return [stamp_of(path) for path in (self.cert, self.key, self.client_ca) if path is not None]


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the files hold, checked: the key is the certificate's."""

    cert: bytes
    key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """For one use: gRPC takes what is in it."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.cert)], self.client_ca)


def stamp_of(path: Path) -> Stamp | None:
    """None if it is not there, or may not be looked at."""
    try:
        return Stamp.of(path.stat())
    except OSError:
        return None


def read_certificates(files: Files) -> Certificates:
    """Raises ConfigError that names the setting and the file at fault."""
    for _ in range(READS):
        before = files.stamps()
        certificates = Certificates(
            _read("tls_cert", files.cert),
            _read("tls_key", files.key),
            None if files.client_ca is None else _read("tls_client_ca", files.client_ca),
        )
        _check(files)
        if files.stamps() == before:
            return certificates
    raise ConfigError(f"tls_cert, tls_key: {files.cert} and {files.key} do not stop changing")


class Served:
    """The certificates of a server that runs. `current` may be set at any time; new connections get it."""

    def __init__(self, certificates: Certificates) -> None:
        self.current = certificates

    def credentials(self) -> grpc.ServerCredentials:
        """For one listener."""
        initial = self.current
        fetch: Any = self._fetcher(initial)  # its type does not know of None
        return grpc.dynamic_ssl_server_credentials(
            initial.configuration(), fetch, initial.client_ca is not None
        )

    def _fetcher(self, given: Certificates) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        """What gRPC calls before every handshake, on a thread of its own: None if nothing has changed."""
        last = given

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal last
            current = self.current
            if current is last:
                return None
            last = current
            return current.configuration()

        return fetch


def _read(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{setting}: {path} has more than {MAX_FILE_BYTES} bytes")
    if b"-----BEGIN " not in raw:
        raise ConfigError(f"{setting}: {path} is no PEM file")
    return raw


class _EncryptedError(Exception):
    """OpenSSL asked for a password."""


def _no_password() -> str:
    raise _EncryptedError


def _check(files: Files) -> None:
    """Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, _no_password)
    except _EncryptedError as error:
        raise ConfigError(f"tls_key: {files.key} is encrypted, expected a key without a password") from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"tls_key: {files.key} is not the key of {files.cert}") from error
        raise ConfigError(
            f"tls_cert, tls_key: {files.cert} and {files.key} hold no certificate and key in PEM"
        ) from error
    except OSError as error:
        raise ConfigError(f"tls_cert, tls_key: cannot be read: {error.strerror}") from error
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"tls_client_ca: {files.client_ca} holds no certificate in PEM") from error
