"""The journal, with the store in a SQLite file: who is written when."""

from __future__ import annotations

import asyncio
from pathlib import Path

from keepgate.sessions.journal import Journal
from keepgate.sessions.stores import open_store
from keepgate.sessions.stores.base import META, Change, Refusal

PATIENCE = 30.0


class Growing:
    """A session that has a change to be written whenever the journal asks. urgent: and always at once."""

    def __init__(self, name: str, journal: Journal, *, urgent: bool) -> None:
        self.name = name
        self.journal = journal
        self.urgent = urgent
        self.taken = 0
        self.stored = asyncio.Event()

    def take_change(self) -> Change:
        self.taken += 1
        return Change(self.name, 1, self.taken, {META: b"{}"}, create=self.taken == 1)

    def give_back(self, change: Change) -> None:
        raise AssertionError("the store works")

    def written(self, change: Change) -> None:
        self.stored.set()
        if self.urgent:
            self.journal.write(self, at_once=True)

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError(f"{self.name}: {refusal}")


def test_commits_without_a_pause_leave_nobody_out(tmp_path: Path) -> None:
    """Sessions that wait for the second's commit get it though others have one to wait for at any time."""

    async def run() -> None:
        journal = Journal(open_store(f"sqlite:{tmp_path / 'sessions.db'}", server_id="one"), every=0.05)
        urgent = Growing("urgent", journal, urgent=True)
        patient = Growing("patient", journal, urgent=False)
        journal.write(urgent, at_once=True)
        await urgent.stored.wait()
        journal.write(patient, at_once=False)
        try:
            await asyncio.wait_for(patient.stored.wait(), PATIENCE)
            assert urgent.taken > 1
        finally:
            await journal.close()

    asyncio.run(run())
