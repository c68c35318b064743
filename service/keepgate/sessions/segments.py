"""The parts of a history, and the names of the items that a store keeps of them."""

from __future__ import annotations

import struct

STATE, RECORDS = b"S", b"J"
POSITION = struct.Struct(">Q")


class Segment:
    """state: the bytes of `Slots.read` at position `start`, None for zeros. records: what came since.

    Only the last segment of a history adds to `records`; those before it may be in several histories.
    """

    __slots__ = ("records", "start", "state")

    def __init__(self, start: int, state: bytes | None, records: bytearray | None = None) -> None:
        self.start = start
        self.state = state
        self.records = bytearray() if records is None else records


class Told:
    """What the store has of a segment, or is being told.

    items: positions of its J items; they hold `size` bytes of its records, which end at position `until`.
    state: whether it has the state.
    """

    __slots__ = ("items", "size", "state", "until")

    def __init__(self, segment: Segment) -> None:
        self.items: list[int] = []
        self.size = 0
        self.until = segment.start
        self.state = segment.state is None


def item(kind: bytes, position: int) -> bytes:
    """The name of an item: STATE or RECORDS, and where."""
    return kind + POSITION.pack(position)


def position_of(key: bytes) -> int:
    """Raises ValueError if the key has none."""
    if len(key) != 1 + POSITION.size:
        raise ValueError(f"a key of {len(key)} bytes, expected {1 + POSITION.size}")
    return int(POSITION.unpack(key[1:])[0])
