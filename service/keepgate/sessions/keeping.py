"""What makes a session last: its history, how durable it is, and what of it the store knows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keepgate.sessions.durability import Durability
from keepgate.sessions.history import History
from keepgate.sessions.session import ModelKey
from keepgate.sessions.stores.base import META, Change, Refusal

if TYPE_CHECKING:
    from keepgate.sessions.journal import Journal


@dataclass(frozen=True, slots=True)
class Meta:
    """What a session is, beside its history. weights: their fingerprint; kernel: what computed the states.

    created: seconds since 1970. ttl: seconds that the session outlives its last request. principal: whose it
    is, "" if the server that it was opened at knew no principals.
    """

    model: ModelKey
    weights: str
    kernel: str
    durability: Durability
    ttl: float
    created: float
    principal: str = ""

    def pack(self) -> bytes:
        fields = {
            "model": self.model.name,
            "version": self.model.version,
            "weights": self.weights,
            "kernel": self.kernel,
            "durability": self.durability.value,
            "ttl": self.ttl,
            "created": self.created,
            "principal": self.principal,
        }
        return json.dumps(fields).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Meta:
        """Raises ValueError if it is damaged."""
        try:
            fields: dict[str, Any] = json.loads(packed)
            meta = cls(
                ModelKey(fields["model"], fields["version"]),
                fields["weights"],
                fields["kernel"],
                Durability(fields["durability"]),
                float(fields["ttl"]),
                float(fields["created"]),
                fields.get("principal", ""),  # an earlier version wrote none
            )
            meta._check()
        except (KeyError, TypeError, OverflowError, ValueError, RecursionError) as error:
            raise ValueError(f"the description of a stored session is damaged: {error}") from error
        return meta

    def _check(self) -> None:
        for text in (*self.model, self.weights, self.kernel, self.principal):
            if not isinstance(text, str):
                raise TypeError(f"got {text!r}, expected text")
            text.encode()  # JSON can spell what no message can carry
        if not (0 < self.ttl < math.inf and math.isfinite(self.created)):
            raise ValueError(f"ttl {self.ttl}, created {self.created}")


class Keeping:
    """The lasting part of one session. history None: all of it is in the store, and only there.

    name: the session's in the store. durable: the position up to which the store knows it. leaving: once the
    store knows all, the history need not stay in memory.
    """

    __slots__ = (
        "_ended",
        "_in_commit",
        "_is_new",
        "_meta_told",
        "_noted",
        "_over",
        "_returned",
        "_waiting",
        "durable",
        "epoch",
        "history",
        "journal",
        "leaving",
        "meta",
        "name",
        "on_gone",
        "on_left",
        "position",
        "session_id",
    )

    def __init__(
        self,
        session_id: str,
        meta: Meta,
        journal: Journal,
        epoch: int,
        history: History | None,
        *,
        durable: int | None = None,
        name: str = "",
    ) -> None:
        """durable None: the store knows nothing of the session. name "": the session's id."""
        self.session_id = session_id
        self.name = name or session_id
        self.meta = meta
        self.journal = journal
        self.epoch = epoch
        self.history = history
        self.position = durable or 0 if history is None else history.position
        self.durable = durable or 0
        self.leaving = False
        self.on_gone: Callable[[Refusal], None] | None = None
        self.on_left: Callable[[], None] | None = None
        self._is_new = durable is None
        self._meta_told = durable is not None
        self._ended = ""
        self._over = False
        self._noted = False  # whether the journal will take a change
        self._returned: Change | None = None
        self._waiting: list[Callable[[Refusal | None], None]] = []
        self._in_commit: list[Callable[[Refusal | None], None]] = []
        if history is None:
            journal.away[meta.model] += 1

    @property
    def durability(self) -> Durability:
        return self.meta.durability

    @property
    def known(self) -> History:
        """The history of a session that is known to have it in memory."""
        if self.history is None:
            raise RuntimeError(f"the history of session {self.session_id!r} is not in memory")
        return self.history

    @property
    def is_stored(self) -> bool:
        """Whether the store has got the session, or is getting it."""
        return not self._is_new

    @property
    def is_over(self) -> bool:
        """Whether `end` was called."""
        return self._over

    def write(self, then: Callable[[Refusal | None], None] | None = None, *, at_once: bool = False) -> None:
        """Tell the store what it does not know; `then` is called when it does, or will not be told."""
        if then is not None:
            self._waiting.append(then)
        elif self._noted and not at_once:
            return
        self._noted = True
        self.journal.write(self, at_once=at_once)

    def restore(self, history: History) -> None:
        """The history is in memory again, and stays till the session gives its slot up."""
        if self.history is None and not self._over:
            self.journal.away[self.meta.model] -= 1
        self.history = history
        self.leaving = False

    def end(self, how: str) -> None:
        """The session is over: all that the store is still told of it, if it knows it."""
        if self.history is None and not self._over:
            self.journal.away[self.meta.model] -= 1
        self._ended = how
        self._over = True
        self.history = None
        self.leaving = False

    # --- the journal's side: `journal.Unwritten` ---

    def take_change(self) -> Change:
        self._noted = False
        put: dict[bytes, bytes] = {}
        delete: list[bytes] = []
        if self.history is not None:
            put, delete = self.history.untold()
            self.position = self.history.position
        if not self._meta_told:
            put[META] = self.meta.pack()
            self._meta_told = True
        change = Change(
            self.name,
            self.epoch,
            self.position,
            put,
            delete,
            create=self._is_new,
            ended=self._ended,
            idle_seconds=self.meta.ttl,
        )
        self._is_new = False
        if self._returned is not None:
            change = _merged(self._returned, change)
            self._returned = None
        self._in_commit += self._waiting
        self._waiting = []
        return change

    def give_back(self, change: Change) -> None:
        self._returned = change
        self._waiting = self._in_commit + self._waiting
        self._in_commit = []

    def written(self, change: Change) -> None:
        self.durable = change.position
        told, self._in_commit = self._in_commit, []
        for callback in told:
            callback(None)
        if self.leaving and not self.journal.is_unwritten(self):
            self.leaving = False
            self.history = None
            self.journal.away[self.meta.model] += 1
            if self.on_left is not None:
                self.on_left()

    def refused(self, refusal: Refusal) -> None:
        told = self._in_commit + self._waiting
        self._in_commit, self._waiting = [], []
        if not self._over and self.on_gone is not None:
            self.on_gone(refusal)
        for callback in told:
            callback(refusal)


def _merged(older: Change, newer: Change) -> Change:
    """Both as one."""
    if newer.ended:
        put, delete = dict(newer.put), newer.delete
    else:
        gone = set(newer.delete)
        put = {key: value for key, value in older.put.items() if key not in gone} | dict(newer.put)
        delete = [*older.delete, *newer.delete]
    return Change(
        newer.session_id,
        newer.epoch,
        newer.position,
        put,
        delete,
        create=older.create,
        ended=newer.ended,
        idle_seconds=newer.idle_seconds,
    )
