"""The file of tokens: who may call, with what, for what.

    [[token]]
    principal = "alice"
    sha256 = "9f86d081..."                # of the token, in hexadecimal; the token itself is nowhere
    scopes = ["sequences", "models"]      # the default
    expires = 2027-01-01T00:00:00Z        # the default: never

A principal may have several, so that one can replace another. `keepgate token NAME` makes an entry.
"""

from __future__ import annotations

import datetime
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from keepgate.errors import ConfigError, TokenExpiredError, TokenInvalidError
from keepgate.security.scopes import DEFAULT_SCOPES, SCOPES

TOKEN_BYTES = 32
TOKEN_PREFIX = "kg_"  # noqa: S105 - it lets a scanner know one that was committed by mistake
MAX_FILE_BYTES = 4 << 20
PRINCIPAL_PATTERN = re.compile(r"[A-Za-z0-9._~:/@+-]{1,128}")
PRINCIPAL_EXPECTED = "1 to 128 characters of [A-Za-z0-9._~:/@+-]"
_DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
_KEYS = frozenset({"principal", "sha256", "scopes", "expires"})


@dataclass(frozen=True, slots=True)
class Grant:
    """Who calls, and what they may. digest: SHA-256 of the token. expires: seconds since 1970, or None."""

    principal: str
    scopes: frozenset[str]
    digest: bytes = b""
    expires: float | None = None


class TokenTable:
    """The tokens of one state of the file, by digest."""

    def __init__(self, grants: Mapping[bytes, Grant]) -> None:
        self._grants = grants

    def __len__(self) -> int:
        return len(self._grants)

    def find(self, token: str, now: float) -> Grant:
        """Who has the token. now: seconds since 1970. Raises TokenInvalidError, TokenExpiredError."""
        # A digest cannot be steered, so that the time of this look-up tells nothing of those in the table.
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        grant = self._grants.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            raise TokenInvalidError
        if grant.expires is not None and grant.expires <= now:
            raise TokenExpiredError
        return grant


def read_tokens(path: Path) -> TokenTable:
    """Raises ConfigError that names the file and the entry at fault."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"tokens_file: {path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"tokens_file: {path} has more than {MAX_FILE_BYTES} bytes")
    try:
        return _table(tomllib.loads(raw.decode()))
    except ValueError as error:
        raise ConfigError(f"tokens_file: {path}: {error}") from error


def new_token() -> str:
    """A fresh random token."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def entry(
    token: str, principal: str, scopes: list[str] | None = None, expires: datetime.datetime | None = None
) -> str:
    """The token's entry in the file. Raises ValueError."""
    fields: dict[str, Any] = {"principal": principal, "sha256": sha256(token.encode()).hexdigest()}
    if scopes:
        fields["scopes"] = scopes
    if expires is not None:
        fields["expires"] = expires
    _grant(fields)
    lines = ["[[token]]", f'principal = "{principal}"', f'sha256 = "{fields["sha256"]}"']
    if scopes:
        lines.append(f"scopes = {json.dumps(scopes)}")
    if expires is not None:
        lines.append(f"expires = {expires.isoformat()}")
    return "\n".join(lines) + "\n"


def _table(document: dict[str, Any]) -> TokenTable:
    """Raises ValueError."""
    unknown = document.keys() - {"token"}
    if unknown:
        raise ValueError(f"got {sorted(unknown)[0]!r}, expected nothing but [[token]]")
    entries = document.get("token", [])
    if not isinstance(entries, list) or not entries:  # as of a file that is being written
        raise ValueError("got no [[token]], expected at least one")
    grants: dict[bytes, Grant] = {}
    for number, fields in enumerate(entries, 1):
        try:
            grant = _grant(fields)
        except ValueError as error:
            raise ValueError(f"token {number}: {error}") from error
        if grant.digest in grants:
            raise ValueError(f"token {number}: sha256: the same as of an earlier one")
        grants[grant.digest] = grant
    return TokenTable(grants)


def _grant(fields: Any) -> Grant:
    """Raises ValueError, never with what `sha256` was: it may be the token itself, by mistake."""
    if not isinstance(fields, dict):
        raise ValueError("got a value, expected [[token]]")
    unknown = fields.keys() - _KEYS
    if unknown:
        raise ValueError(f"got {sorted(unknown)[0]!r}, expected one of {', '.join(sorted(_KEYS))}")
    principal, digest = fields.get("principal"), fields.get("sha256")
    if not isinstance(principal, str) or not PRINCIPAL_PATTERN.fullmatch(principal):
        raise ValueError(f"principal: got {principal!r}, expected {PRINCIPAL_EXPECTED}")
    if not isinstance(digest, str) or not _DIGEST_PATTERN.fullmatch(digest.lower()):
        raise ValueError("sha256: expected 64 hexadecimal digits, the token's SHA-256")
    return Grant(
        principal,
        _scopes(fields.get("scopes")),
        bytes.fromhex(digest),
        _expires(fields.get("expires")),
    )


def _scopes(given: Any) -> frozenset[str]:
    if given is None:
        return DEFAULT_SCOPES
    if not isinstance(given, list) or not given or any(scope not in SCOPES for scope in given):
        raise ValueError(f"scopes: got {given!r}, expected a list of {', '.join(SCOPES)}")
    return frozenset(given)


def _expires(given: Any) -> float | None:
    if given is None:
        return None
    if not isinstance(given, datetime.datetime) or given.tzinfo is None:
        raise ValueError(f"expires: got {given}, expected a time with its offset, as 2027-01-01T00:00:00Z")
    return given.timestamp()
