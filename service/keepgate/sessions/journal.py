"""Tells the store what happened to sessions: one commit for all that a tick did, while the next one computes.

What is not written yet lies with its session, merged, so that a store that is slow gets fewer and larger
commits and no queue grows. A commit that fails is tried again till it works; meanwhile nobody gets an answer
that the commit was to make durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import structlog

from keepgate.engine.meter import SECONDS_BOUNDS, Histogram
from keepgate.errors import StoreError
from keepgate.sessions.session import ModelKey
from keepgate.sessions.stores.base import Change, Held, Refusal, Store

EVERY_SECONDS = 0.5
"""So that with the commit itself, on a busy machine too, no more than the last second is at risk."""
RETRY_SECONDS = 0.05
MOST_RETRY_SECONDS = 2.0
"""The wait after a commit that failed doubles from the one to the other."""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Unwritten(Protocol):
    """A session, as the journal sees it."""

    def take_change(self) -> Change:
        """All that the store does not know yet; from now on it counts as known."""

    def give_back(self, change: Change) -> None:
        """A change that was taken last was not made: it counts as unknown again."""

    def written(self, change: Change) -> None:
        """The store has made the change."""

    def refused(self, refusal: Refusal) -> None:
        """The store will make no change to this session any more."""


class Journal:
    """One store, its thread, and the sessions that it is to be told of. Used from one event loop.

    every: seconds between the commits of sessions that do not ask for one at once. commits: seconds of those
    that worked. away: sessions whose history is in the store alone, by model.
    """

    def __init__(self, store: Store, every: float = EVERY_SECONDS) -> None:
        self.store = store
        self.failing_since: float | None = None
        self.commits = Histogram(SECONDS_BOUNDS)
        self.away: Counter[ModelKey] = Counter()
        self._every = every
        self._urgent: dict[Unwritten, None] = {}
        self._patient: dict[Unwritten, None] = {}
        self._writing: dict[Unwritten, None] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keepgate-store")
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._flush = False
        self._tasks = [asyncio.ensure_future(self._write()), asyncio.ensure_future(self._tick())]

    def write(self, session: Unwritten, *, at_once: bool) -> None:
        """Have the session's change written: with the next commit, or with that of the second."""
        self._idle.clear()
        if at_once:
            self._patient.pop(session, None)
            self._urgent[session] = None
            self._wake.set()
        elif session not in self._urgent:
            self._patient[session] = None

    def is_unwritten(self, session: Unwritten) -> bool:
        """Whether the store is yet to be told something of the session."""
        return session in self._writing or session in self._urgent or session in self._patient

    async def fetch(self, session_id: str) -> Held | None:
        """A session of this server as the store has it. Raises StoreError."""
        return await self.call(lambda: self.store.load(session_id))

    async def claim(self, session_id: str) -> Held | None:
        """Become a session's owner. Raises as `Store.claim`."""
        return await self.call(lambda: self.store.claim(session_id))

    async def call(self, work: Callable[[], Result]) -> Result:
        """Run `work`, which uses the store, on the store's thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def flush(self) -> None:
        """Write everything, and return when all is written."""
        self._flush = True
        self._wake.set()
        await self._idle.wait()

    async def close(self) -> None:
        """Write no more, and close the store. `flush` first, or lose what is unwritten."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreError):  # then its lease ends by itself
            await self.call(self.store.close)
        self._thread.shutdown(wait=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self._flush = True
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._flush or self._urgent:
                if self._flush:  # looked at between commits: those of urgent sessions may never pause
                    self._flush = False
                    await self._beat()
                    self._urgent.update(self._patient)
                    self._patient.clear()
                self._writing, self._urgent = self._urgent, {}
                if self._writing:
                    await self._commit(list(self._writing))
            if not self._patient:
                self._idle.set()

    async def _commit(self, sessions: Iterable[Unwritten]) -> None:
        """One commit, as often as it takes."""
        delay = RETRY_SECONDS
        while True:
            changes = [(session, session.take_change()) for session in sessions]
            begin = time.perf_counter()
            try:
                refusals = await self.call(partial(self.store.commit, [change for _, change in changes]))
            except Exception as error:  # whatever it is, it must not end the journal
                for session, change in changes:
                    session.give_back(change)
                self._failed(error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, MOST_RETRY_SECONDS)
                continue
            self._worked()
            self.commits.add(time.perf_counter() - begin)
            self._writing = {}  # from now on a session is unwritten only if it has changed again
            for session, change in changes:
                try:
                    _tell(session, change, refusals.get(change.session_id))
                except Exception as error:  # one session's failure must not keep the others waiting
                    log.error("what was stored could not be told", exc_info=error)
            return

    async def _beat(self) -> None:
        try:
            await self.call(self.store.beat)
        except StoreError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self.failing_since is None:
            self.failing_since = time.monotonic()
            bug = None if isinstance(error, StoreError) else error
            log.error("store fails", store=self.store.describe(), error=str(error), exc_info=bug)

    def _worked(self) -> None:
        if self.failing_since is not None:
            seconds = round(time.monotonic() - self.failing_since, 3)
            log.info("store works again", store=self.store.describe(), seconds=seconds)
            self.failing_since = None


def _tell(session: Unwritten, change: Change, refusal: Refusal | None) -> None:
    if refusal is None:
        session.written(change)
    else:
        session.refused(refusal)
