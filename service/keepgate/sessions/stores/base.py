"""What every store of sessions does.

To a store a session is its items, bytes by key, under an epoch that rises each time it gets an owner. A
server writes only to sessions it owns, under the epoch that it got with them; once another server has claimed
the session, those writes are refused. Calls block; one thread makes them, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

META = b"M"
"""The key of the item that says what a session is. All others are `history`'s."""


class Refusal(Enum):
    """Why a session's change was not made."""

    EXISTS = auto()  # create: a session of this id is there already
    FENCED = auto()  # another server has claimed the session, or it is gone


@dataclass(slots=True)
class Change:
    """What happened to one session; made as a whole or not at all.

    position: the session's, after it. First the keys of `delete` go, then `put` is put. create: the session
    is new, and gets the epoch given. ended: why it is over, "" if it goes on; a store keeps nothing else of
    an ended session, and that for some time. idle_seconds: how long the session lives if nobody touches it.
    """

    session_id: str
    epoch: int
    position: int
    put: Mapping[bytes, bytes] = field(default_factory=dict)
    delete: Sequence[bytes] = ()
    create: bool = False
    ended: str = ""
    idle_seconds: float = 3600.0


class Held(NamedTuple):
    """A session that is now this server's. ended: as in Change; then there are no items.

    items: META alone where `Store.held` lists it.
    """

    session_id: str
    epoch: int
    position: int
    items: Mapping[bytes, bytes]
    ended: str = ""


class Store(Protocol):
    """All methods raise StoreError if the store cannot be reached or cannot write.

    After such an error of `commit` the same changes may be given again, whether or not they were made.
    """

    shared: bool
    """Whether other servers may own sessions of the store."""

    def commit(self, changes: Sequence[Change]) -> Mapping[str, Refusal]:
        """Make all changes, of different sessions, and return once they will outlive the process and the
        machine's power. Those that are refused come back by session id; the others are made."""

    def held(self) -> Iterator[Held]:
        """At start: the sessions that nobody else can own, claimed, with META only. None if it is shared."""

    def load(self, session_id: str) -> Held | None:
        """A session of this server, with all items. None if it is not there, or has ended."""

    def meta(self, session_id: str) -> bytes | None:
        """META of a session, whosever it is. None if there is no such session, or if it has ended."""

    def claim(self, session_id: str) -> Held | None:
        """Become the owner of a session: its epoch rises, unless it has ended. None if it is not there.

        Raises SessionElsewhereError if its owner is another server that lives.
        """

    def beat(self) -> None:
        """Tell other servers that this one lives; to be called several times in `lease_seconds`."""

    def describe(self) -> str:
        """What and where it is, for people, without secrets."""

    def close(self) -> None:
        """Give up all that this server owns, and let go of the store."""
