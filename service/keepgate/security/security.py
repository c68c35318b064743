"""What a server's settings say of security, carried out and kept up to date."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

import grpc
import structlog

from keepgate.config import Settings
from keepgate.errors import ConfigError
from keepgate.security.gate import Gate
from keepgate.security.tls import Certificates, Files, Served, read_certificates, stamp_of
from keepgate.security.tokens import TokenTable, read_tokens
from keepgate.telemetry.calls import Calls
from keepgate.threads import in_thread

WATCH_SECONDS = 1.0
"""Between two looks at the files."""

log = structlog.get_logger(__name__)


class Security:
    """gate: for the server of the clients; admin_gate: for that of the Admin service.

    Raises ConfigError if a file is at fault. Later a file at fault changes nothing, and the log says so.
    """

    def __init__(self, settings: Settings, calls: Calls) -> None:
        self._settings = settings
        self._calls = calls
        self._files = _files(settings)
        self._seen = self._stamps()
        tokens = read_tokens(settings.tokens_file) if settings.tokens_file is not None else None
        self._served = Served(read_certificates(self._files)) if self._files is not None else None
        by_certificate = settings.tls_principal
        self.gate = self._gate(tokens, by_certificate)
        if by_certificate and self.admin_credentials() is None:  # there, nobody shows one
            self.admin_gate = self._gate(TokenTable({}) if tokens is None else tokens, False)
        else:
            self.admin_gate = self._gate(tokens, by_certificate)
        self._one = asyncio.Lock()
        self._watching: asyncio.Future[None] | None = None

    def credentials(self) -> grpc.ServerCredentials | None:
        """Of the clients' listener; None for plain text."""
        return None if self._served is None else self._served.credentials()

    def admin_credentials(self) -> grpc.ServerCredentials | None:
        """Of the Admin service's: TLS where the network can see it, plain text on the machine itself."""
        if is_loopback(self._settings.admin_address):
            return None
        return self.credentials()

    def warn(self) -> None:
        """Say in the log what is open that should not be."""
        settings = self._settings
        if settings.tokens_file is not None and self._served is None and not is_loopback(settings.host):
            log.warning("tokens travel in plain text", host=settings.host, expected="tls_cert and tls_key")
        if self.gate.is_open and not is_loopback(settings.host):
            log.warning(
                "whoever reaches the server may do everything",
                host=settings.host,
                expected="tokens_file, or tls_client_ca and tls_principal",
            )
        if settings.admin_address and not is_loopback(settings.admin_address) and self.admin_gate.is_open:
            log.warning("the Admin service is open to the network", expected="tokens_file")

    def start(self) -> None:
        """Until `stop`, take what changes in the files."""
        if self._seen:
            self._watching = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def reload(self) -> None:
        """Take what the files hold now; each that is at fault stays as it was."""
        async with self._one:
            self._seen = await in_thread(self._stamps)
            path, files, served = self._settings.tokens_file, self._files, self._served
            if path is not None:
                await _taken("tokens", lambda: read_tokens(path), self._take_tokens)
            if files is not None and served is not None:
                await _taken("certificates", lambda: read_certificates(files), self._take_certificates)

    # --- inside ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if await in_thread(self._stamps) != self._seen:
                    await self.reload()
            except Exception as error:  # a bug: nobody else hears of it
                log.error("not reloaded", exc_info=error)

    @property
    def interceptors(self) -> tuple[Gate, ...]:
        """Of the public listener: none where everybody may do everything, for each costs every call."""
        return _if_needed(self.gate)

    @property
    def admin_interceptors(self) -> tuple[Gate, ...]:
        """Of the operator's."""
        return _if_needed(self.admin_gate)

    def _gate(self, tokens: TokenTable | None, certificates: bool) -> Gate:
        return Gate(
            self._calls,
            tokens,
            certificates=certificates,
            open_health=self._settings.open_health,
            max_calls=self._settings.max_calls_per_principal,
        )

    def _take_tokens(self, tokens: TokenTable) -> None:
        self.gate.tokens = self.admin_gate.tokens = tokens
        log.info("tokens reloaded", tokens=len(tokens))

    def _take_certificates(self, certificates: Certificates) -> None:
        if self._served is not None and certificates != self._served.current:
            self._served.current = certificates
            log.info("certificates reloaded")

    def _stamps(self) -> list[object]:
        path = self._settings.tokens_file
        stamps: list[object] = [] if path is None else [stamp_of(path)]
        return stamps if self._files is None else [*stamps, *self._files.stamps()]


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a host, or host:port."""
    host = address
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        host = address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _files(settings: Settings) -> Files | None:
    cert, key = settings.tls_cert, settings.tls_key
    if cert is not None and key is not None:
        return Files(cert, key, settings.tls_client_ca)
    return None


async def _taken(what: str, read: Callable[[], object], take: Callable[..., None]) -> None:
    try:
        take(await in_thread(read))
    except ConfigError as error:
        log.error("not reloaded", what=what, error=str(error))


def _if_needed(gate: Gate) -> tuple[Gate, ...]:
    return (gate,) if gate.refuses else ()
