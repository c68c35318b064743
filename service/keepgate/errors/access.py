"""Why a caller was refused, whatever it asked for."""

from __future__ import annotations

from keepgate.errors.base import RequestError, RetryLaterError


class AccessError(RequestError):
    """The call was refused before its request was looked at."""


class TokenMissingError(AccessError):
    reason = "TOKEN_MISSING"

    def __init__(self) -> None:
        super().__init__("got no token, expected the metadata 'authorization: Bearer TOKEN'")


class TokenInvalidError(AccessError):
    reason = "TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("got a token that is unknown to this server")


class TokenExpiredError(AccessError):
    reason = "TOKEN_EXPIRED"

    def __init__(self) -> None:
        super().__init__("got a token that has expired")


class ScopeMissingError(AccessError):
    """scope: what the method needs, "" for one that nobody may call."""

    reason = "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        wanted = f"needs the scope {scope!r}, which the caller lacks" if scope else "is open to nobody"
        super().__init__(f"the method {wanted}", scope=scope)


class PrincipalSessionsExhaustedError(RetryLaterError):
    reason = "PRINCIPAL_SESSIONS_EXHAUSTED"
    retry_after = 1.0

    def __init__(self, limit: int) -> None:
        super().__init__(f"the caller has all the {limit} sessions open that it may", limit=limit)


class PrincipalCallsExhaustedError(RetryLaterError):
    reason = "PRINCIPAL_CALLS_EXHAUSTED"
    retry_after = 0.1

    def __init__(self, limit: int) -> None:
        super().__init__(f"all {limit} calls that the caller may have at once are taken", limit=limit)
