"""A session as bytes that any server with the same weights can go on with.

    "KGSESSION" | version u8 | header bytes u32 | header, JSON | state | BLAKE2b-128 of all before

Little-endian. The header has model, version, weights (their fingerprint), kernel (what computed the state),
position and state_bytes; the state is float32, for every layer h and then c.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass

import numpy as np

MAGIC = b"KGSESSION"
VERSION = 1
CHECKSUM_BYTES = 16
MOST_STEPS = 1 << 48
"""The largest position: at a million steps a second it is reached after nine years."""
_HEAD = struct.Struct("<9sBI")


@dataclass(frozen=True, slots=True)
class Header:
    """Where a session comes from, and how far it is."""

    model: str
    version: str
    weights: str
    kernel: str
    position: int
    state_bytes: int


def pack(header: Header, state: bytes) -> bytes:
    """The blob of a session with this state."""
    text = json.dumps(asdict(header)).encode()
    body = _HEAD.pack(MAGIC, VERSION, len(text)) + text + state
    return body + _checksum(body)


def unpack(blob: bytes) -> tuple[Header, bytes]:
    """Header and state. Raises ValueError that says what is wrong with the blob."""
    if len(blob) < _HEAD.size + CHECKSUM_BYTES:
        raise ValueError(f"{len(blob)} bytes, too few for an exported session")
    magic, version, size = _HEAD.unpack_from(blob)
    if magic != MAGIC:
        raise ValueError("bytes that are no exported session")
    if version != VERSION:
        raise ValueError(f"format version {version}, expected {VERSION}")
    body, checksum = blob[:-CHECKSUM_BYTES], blob[-CHECKSUM_BYTES:]
    if _checksum(body) != checksum:
        raise ValueError("an exported session whose checksum is wrong: it is damaged")
    try:
        header = Header(**json.loads(body[_HEAD.size : _HEAD.size + size]))
        _check(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"an exported session whose header is wrong: {error}") from error
    state = body[_HEAD.size + size :]
    if len(state) != header.state_bytes:
        raise ValueError(f"a state of {len(state)} bytes, the header says {header.state_bytes}")
    if not np.isfinite(np.frombuffer(state, "<f4")).all():
        raise ValueError("a state that is not finite")
    return header, state


def _check(header: Header) -> None:
    for name, kind in Header.__annotations__.items():
        value = getattr(header, name)
        if type(value).__name__ != kind:
            raise ValueError(f"{name} is {value!r}, expected {kind}")
        if kind == "str":
            value.encode()  # JSON can spell lone surrogates, which no message can carry
    if not 0 <= header.position <= MOST_STEPS or header.state_bytes < 0 or header.state_bytes % 4:
        raise ValueError(f"position {header.position}, state_bytes {header.state_bytes}")


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest()
