"""A client of gRPC that writes its own frames: it does what no gRPC library would.

Frames and headers: RFC 9113 and RFC 7541.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
LONGEST = 126
"""Bytes of a name or value whose length takes one byte."""
TIMEOUT = 60.0


class Http2:
    """One connection. window: bytes of a stream that the server may send; None for HTTP/2's default."""

    def __init__(self, address: str, window: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        settings = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self._stream = 1
        self._socket = socket.create_connection((host, int(port)), TIMEOUT)
        self._socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(SETTINGS, ACK, 0, b""))

    def call(self, path: bytes, message: bytes = b"") -> int:
        """Begin a call of one message; the number of its stream."""
        stream = self._stream
        self._stream += 2
        pairs = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"test"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
        headers = b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)
        body = b"\0" + struct.pack(">I", len(message)) + message
        self._socket.sendall(
            _frame(HEADERS, END_HEADERS, stream, headers) + _frame(DATA, END_STREAM, stream, body)
        )
        return stream

    def wait_headers(self, stream: int) -> None:
        """Return when the server has sent headers, or trailers, in a stream."""
        while True:
            head = self._exactly(9)
            self._exactly(int.from_bytes(head[:3], "big"))
            if head[3] == HEADERS and int.from_bytes(head[5:], "big") == stream:
                return

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise EOFError("the server closed the connection")
            data += part
        return data


@contextmanager
def http2(address: str, window: int | None = None) -> Iterator[Http2]:
    """A connection, closed at the end."""
    connection = Http2(address, window)
    try:
        yield connection
    finally:
        connection.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(text: bytes) -> bytes:
    """A string of HPACK, as it is."""
    if len(text) <= LONGEST:
        return bytes([len(text)]) + text
    rest, length = len(text) - LONGEST - 1, bytes([LONGEST + 1])
    while rest >= 128:
        length += bytes([rest % 128 + 128])
        rest //= 128
    return length + bytes([rest]) + text
