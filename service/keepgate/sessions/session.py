"""One session and the requests on it, as the table knows them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from keepgate.errors import SessionGoneError

if TYPE_CHECKING:
    from keepgate.sessions.keeping import Keeping

Outcome = TypeVar("Outcome")

NO_SLOT = -1
"""The slot of a session whose state is in none."""


class ModelKey(NamedTuple):
    """A model's name and version."""

    name: str
    version: str


class Session(Generic[Outcome]):
    """One sequence. `position` counts applied inputs, `tail` admitted ones; `slot` holds the state, or is
    NO_SLOT.

    principal: whose it is. keeping: what makes it last, the caller's. may_have_lost: it was taken over from a
    server that may have applied more steps than it stored. It stays so till it is moved: a client may ask for
    one of the last steps once more, and send what followed the lost ones later.
    """

    __slots__ = (
        "__weakref__",
        "created",
        "ended",
        "entries",
        "keeping",
        "last_used",
        "may_have_lost",
        "model",
        "owner",
        "position",
        "principal",
        "serial",
        "session_id",
        "slot",
        "tail",
        "ttl",
    )

    def __init__(
        self,
        session_id: str,
        serial: int,
        model: ModelKey,
        keeping: Keeping,
        slot: int,
        position: int,
        ttl: float,
        now: float,
        principal: str = "",
    ) -> None:
        self.principal = principal
        self.keeping = keeping
        self.session_id = session_id
        self.serial = serial
        self.model = model
        self.slot = slot
        self.ttl = ttl
        self.created = now
        self.last_used = now
        self.position = position
        self.tail = position
        self.entries: list[Entry[Outcome]] = []
        self.may_have_lost = False
        self.owner: object | None = None
        self.ended: type[SessionGoneError] | None = None

    @property
    def deadline(self) -> float:
        """When the session expires if nothing comes."""
        return self.last_used + self.ttl

    def take_free_slot(self) -> int | None:
        """The slot, once, when the session is over and no work needs its state; otherwise None.

        Then its entries go too, for nobody can ask for their outcomes any more.
        """
        if self.ended is None or self.position != self.tail:
            return None
        self.entries.clear()
        slot, self.slot = self.slot, NO_SLOT
        return None if slot == NO_SLOT else slot


class Entry(Generic[Outcome]):
    """One admitted request. `outcome` is the caller's: a reply that is pending or kept."""

    __slots__ = ("count", "digest", "outcome", "session", "start", "unapplied")

    def __init__(self, session: Session[Outcome], start: int, count: int, digest: bytes) -> None:
        self.session = session
        self.start = start
        self.count = count
        self.unapplied = count
        self.digest = digest
        self.outcome: Outcome | None = None
