"""Bytes to messages. What does not parse is the client's fault, and no bug of the server's.

gRPC calls the deserializer outside the servicer, where an exception becomes UNKNOWN and a traceback in the
log. So it gets an object instead, and whoever reads it next raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from keepgate.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Malformed:
    """In place of a request: bytes that are none of method `method`."""

    method: str
    size: int


def tolerant(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    """The same, but for bytes that do not parse it returns Malformed."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Malformed(method, len(data))

    return read


def well_formed(request: Any) -> Any:
    """The request. Raises InvalidArgumentError if it is Malformed."""
    if isinstance(request, Malformed):
        got = f"{request.size} bytes that do not parse"
        raise InvalidArgumentError("request", got, f"a serialized request of {request.method}")
    return request
