"""A small HTTP server for those who watch: metrics, and whether the server is live and ready.

On the event loop, so that an answer shows that the loop runs. One request a connection; a client that is slow
costs a socket for some seconds and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple

import structlog

from keepgate.errors import ListenError
from keepgate.threads import in_thread

MAX_CONNECTIONS = 64
MAX_HEAD_BYTES = 16_384
READ_SECONDS = 5.0
"""What a client gets to send its request."""
WRITE_SECONDS = 10.0
"""What a client gets to take its answer."""
TEXT = "text/plain; charset=utf-8"

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


class Request(NamedTuple):
    """headers: by their names in lower case; the last of a name."""

    method: str
    path: str
    headers: dict[str, str]


class Http:
    """metrics(accept): the document and its content type, called in a thread, one at a time. is_ready: as the
    health service says."""

    def __init__(self, metrics: Callable[[str], tuple[bytes, str]], is_ready: Callable[[], Awaitable[bool]]):
        self._metrics = metrics
        self._is_ready = is_ready
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: str) -> str:
        """Listen on host:port, 0 for any port; the address. Raises ListenError."""
        host, _, port = address.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._connected, host.strip("[]"), int(port), limit=MAX_HEAD_BYTES
            )
        except OSError as error:
            raise ListenError(f"http_address: cannot listen on {address}: is it in use?") from error
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    request = _parsed(await reader.readuntil(b"\r\n\r\n"))
                answer = await self._answer(request)
                without_body = request.method == "HEAD"
            except asyncio.LimitOverrunError:
                answer, without_body = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), False
            except ValueError:
                answer, without_body = _plain(HTTPStatus.BAD_REQUEST), False
            async with asyncio.timeout(WRITE_SECONDS):
                writer.write(_packed(answer, without_body))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            log.debug("a client of the HTTP port went away or took too long")
        finally:
            writer.transport.abort()

    async def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        match request.path.partition("?")[0]:
            case "/metrics":
                return await self._document(request.headers.get("accept", ""))
            case "/healthz" | "/v2/health/live":
                return _plain(HTTPStatus.OK)
            case "/readyz" | "/v2/health/ready":
                return _plain(HTTPStatus.OK if await self._is_ready() else HTTPStatus.SERVICE_UNAVAILABLE)
            case _:
                return _plain(HTTPStatus.NOT_FOUND)

    async def _document(self, accept: str) -> Answer:
        async with self._one:
            try:
                body, content_type = await in_thread(lambda: self._metrics(accept))
            except Exception as error:  # a bug; whoever scrapes must not take silence for health
                log.error("the metrics could not be read", exc_info=error)
                return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        return Answer(HTTPStatus.OK, body, content_type)


def _parsed(head: bytes) -> Request:
    """Raises ValueError if it is no request."""
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"got {version!r}, expected HTTP/1.0 or HTTP/1.1")
    fields = (line.partition(":") for line in rest if line)
    return Request(method, path, {name.lower(): value.strip() for name, _, value in fields})


def _plain(status: HTTPStatus) -> Answer:
    return Answer(status, f"{status.phrase}\n".encode())


def _packed(answer: Answer, without_body: bool) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\n{allow}Connection: close\r\n\r\n"
    ).encode()
    return head if without_body else head + answer.body
