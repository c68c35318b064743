"""Around every call of every service: nobody gets in who is not let in."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc

from keepgate.errors import (
    PrincipalCallsExhaustedError,
    RequestError,
    ScopeMissingError,
    TokenInvalidError,
    TokenMissingError,
)
from keepgate.rpc.status import abort, to_status
from keepgate.security.principal import CALLER, NOBODY
from keepgate.security.scopes import ANY, DEFAULT_SCOPES, HEALTH, scope_of
from keepgate.security.tokens import PRINCIPAL_PATTERN, Grant, TokenTable
from keepgate.telemetry.calls import KINDS, Calls, Method

HEADER = "authorization"
SCHEME = "bearer "
SAN = "x509_subject_alternative_name"
COMMON_NAME = "x509_common_name"
UNKNOWN = "unknown"
"""What a method is called that is none of the server's, wherever its call is noted."""
OTHERS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Methods whose calls are not counted."""

Continue = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]
Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
Begin = Callable[[Context], Awaitable[Callable[[], None]]]


class Gate(grpc.aio.ServerInterceptor):
    """The outermost interceptor. It refuses before a message of the call is read.

    calls: where those that it refuses are noted. tokens: who may call with a token; None if nobody can.
    certificates: whether a call without a token is that of the principal whom the client's certificate names.
    With neither, all callers are one, NOBODY, and may do everything. open_health: whether the health of the
    server is for everybody to know. max_calls: calls of one principal at once, 0 for any number.
    """

    def __init__(
        self,
        calls: Calls,
        tokens: TokenTable | None = None,
        *,
        certificates: bool = False,
        open_health: bool = True,
        max_calls: int = 0,
    ) -> None:
        self.tokens = tokens
        self._noted = calls
        self._certificates = certificates
        self._open_health = open_health
        self._max_calls = max_calls
        self._calls: Counter[str] = Counter()
        self._by_certificate: dict[str, Any] = {}
        self._counted: dict[str, Any] = {}

    @property
    def refuses(self) -> bool:
        """Whether there is anybody whom it would not let in."""
        return not self.is_open or bool(self._max_calls)

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self.tokens is None and not self._certificates

    async def intercept_service(
        self, continuation: Continue, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        method = handler_call_details.method
        if not self.is_open:
            scope = scope_of(method)
            try:
                grant = self._grant(handler_call_details.invocation_metadata)
                if grant is None:
                    if scope == HEALTH and self._open_health:
                        CALLER.set(NOBODY)
                    elif self._certificates:
                        return await self._for_certificates(method, scope, continuation, handler_call_details)
                    else:
                        raise TokenMissingError
                else:
                    if scope not in grant.scopes:
                        if not scope and await continuation(handler_call_details) is None:
                            return None  # there is no such method
                        _check_scope(grant, scope)
                    CALLER.set(grant.principal)
            except RequestError as error:
                return self._refusal(method, error)
        handler = await continuation(handler_call_details)
        if handler is None or not self._max_calls:
            return handler
        counted = self._counted.get(method)
        if counted is None:
            counted = self._counted[method] = self._around(method, handler, self._count)
        return counted

    def _grant(self, metadata: Any) -> Grant | None:
        """Whom the call's token names; None if it has none. Raises AccessError."""
        given = None
        for key, value in metadata:
            if key == HEADER:
                if given is not None:
                    raise TokenInvalidError
                given = value
        if given is None:
            return None
        if self.tokens is None or not isinstance(given, str) or given[: len(SCHEME)].lower() != SCHEME:
            raise TokenInvalidError
        return self.tokens.find(given[len(SCHEME) :].strip(), time.time())

    async def _for_certificates(
        self, method: str, scope: str, continuation: Continue, details: grpc.HandlerCallDetails
    ) -> Any:
        """The method's handler, for a call whose principal only the call itself can tell.

        Such a client has shown a certificate already, or it is on a listener without TLS.
        """
        known = self._by_certificate.get(method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None:
            return self._refusal(method, TokenMissingError())

        def admit(context: Context) -> None:
            grant = _certified(context.auth_context())
            _check_scope(grant, scope)
            CALLER.set(grant.principal)

        admitting = self._around(method, handler, _Admission(admit, self._count if self._max_calls else None))
        self._by_certificate[method] = admitting
        return admitting

    def _count(self, context: Context) -> Callable[[], None]:
        """One more call of the caller. Returns what ends it. Raises PrincipalCallsExhaustedError."""
        principal = CALLER.get()
        if self._calls[principal] >= self._max_calls:
            raise PrincipalCallsExhaustedError(self._max_calls)
        self._calls[principal] += 1

        def end() -> None:
            self._calls[principal] -= 1
            if not self._calls[principal]:
                del self._calls[principal]

        return end

    def _refusal(self, method: str, error: RequestError) -> Any:
        """A handler for any kind of method that reads nothing and refuses."""

        async def refuse(requests: Any, context: Context) -> None:
            await self._refuse(method, error, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(self, method: str, error: RequestError, context: Context) -> None:
        """End a call, and have it noted. A method that is not there is UNKNOWN: whoever may not call may make
        names up, and what is noted is for people's eyes."""

        async def refuse(_: Any, context: Context) -> None:
            await abort(context, to_status(error))

        name = method if method in OTHERS else UNKNOWN
        known = self._noted.methods.get(method) or Method(name, KINDS[True, True])
        await self._noted.watched(refuse, known)(None, context)

    def _around(self, method: str, handler: Any, begin: Callable[[Context], Callable[[], None]]) -> Any:
        """The same handler; `begin` is called before each call, and what it returns after it.

        What `begin` raises, a RequestError, ends the call.
        """

        async def begun(context: Context) -> Callable[[], None]:
            try:
                return begin(context)
            except RequestError as error:
                await self._refuse(method, error, context)
                raise  # not reached: the call has been aborted

        return _around(handler, begun)


class _Admission:
    """First `admit`, then `count`, if that is given."""

    def __init__(
        self,
        admit: Callable[[Context], None],
        count: Callable[[Context], Callable[[], None]] | None,
    ) -> None:
        self._admit = admit
        self._count = count

    def __call__(self, context: Context) -> Callable[[], None]:
        self._admit(context)
        return _nothing if self._count is None else self._count(context)


def _nothing() -> None:
    """The end of a call that nobody counts."""


def _check_scope(grant: Grant, scope: str) -> None:
    """Raises ScopeMissingError."""
    if not (scope in grant.scopes or scope in (ANY, HEALTH)):
        raise ScopeMissingError(scope)


def _certified(identity: Mapping[str, Any]) -> Grant:
    """Whom a client's certificate names: its first alternative name, or else its common name.

    Raises TokenMissingError if there is none, or none that could be a principal.
    """
    names = identity.get(SAN) or identity.get(COMMON_NAME) or ()
    for name in names:
        text = bytes(name).decode("utf-8", "replace")
        if PRINCIPAL_PATTERN.fullmatch(text):
            return Grant(text, DEFAULT_SCOPES)
        break
    raise TokenMissingError


def _around(handler: Any, begin: Begin) -> Any:
    """The same handler; `begin` is awaited before each call, and what it returns is called after it."""
    kinds = {
        (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    }
    behaviour, build = kinds[handler.request_streaming, handler.response_streaming]
    wrapped = _generator if inspect.isasyncgenfunction(behaviour) else _coroutine
    return build(
        wrapped(behaviour, begin),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _coroutine(behaviour: Behaviour, begin: Begin) -> Behaviour:
    async def call(request: Any, context: Context) -> Any:
        end = await begin(context)
        try:
            return await behaviour(request, context)
        finally:
            end()

    return call


def _generator(behaviour: Behaviour, begin: Begin) -> Behaviour:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        end = await begin(context)
        try:
            async for answer in behaviour(request, context):
                yield answer
        finally:
            end()

    return call
