"""One session and the requests on it, as the table knows them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

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


class Bound(Protocol):
    """What steps a session as one row of many, and tells it later."""

    def settle(self) -> None:
        """Let the sessions know what became of them."""

    def suspend(self, session: Session[Any]) -> None:
        """Something else happens to the session's state now: do not count on where it is."""

    def over(self, session: Session[Any]) -> None:
        """The session has ended while steps of it are in flight: see to its end when they are done."""

    def used(self, session: Session[Any]) -> float:
        """When the session was stepped last, if ever; seconds of the table's clock."""

    def spares(self, session: Session[Any]) -> bool:
        """Whether the session can do without its slot: nothing is in flight, and it was not used since the
        last time this was asked. Then it is settled and suspended."""


class Session(Generic[Outcome]):
    """One sequence. `position` counts applied inputs, `tail` admitted ones; `slot` holds the state, or is
    NO_SLOT.

    principal: whose it is. bound: what steps it beside the table, if anything does; position, tail and
    last_used are behind till that settles. keeping: what makes it last, the caller's. may_have_lost: it was
    taken over from a server that may have applied more steps than it stored. It stays so till it is moved: a
    client may ask for one of the last steps once more, and send what followed the lost ones later.
    """

    __slots__ = (
        "__weakref__",
        "bound",
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
        self.bound: Bound | None = None
        self.ended: type[SessionGoneError] | None = None

    @property
    def deadline(self) -> float:
        """When the session expires if nothing comes."""
        if self.bound is not None:
            return max(self.last_used, self.bound.used(self)) + self.ttl
        return self.last_used + self.ttl

    def settle(self) -> None:
        """Have position, tail and last_used, and the history, be what they are."""
        if self.bound is not None:
            self.bound.settle()

    def suspend(self) -> None:
        """Something else happens to the state now: what steps it must not count on where it is."""
        if self.bound is not None:
            self.bound.suspend(self)

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
