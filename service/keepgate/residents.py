"""Sessions of one model version, and the slots that their states take turns in.

There may be many more sessions than slots. A session that is to be stepped and has no slot gets one: its
state is made again from its history, which is fetched from the store if it is only there. When all slots are
taken, the session that was used least recently gives its slot up; what makes its state goes to the store.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import structlog

from keepgate.config import Settings
from keepgate.engine.engine import Engine
from keepgate.engine.frame import Frame
from keepgate.engine.job import Job
from keepgate.errors import (
    KeepgateError,
    SessionLostError,
    SessionMovedError,
    StoreError,
    StoreUnavailableError,
)
from keepgate.models.registry import LoadedModel
from keepgate.replay import replay
from keepgate.sessions.history import History
from keepgate.sessions.records import Codec
from keepgate.sessions.session import NO_SLOT, Session
from keepgate.sessions.stores.base import Refusal

LOOKED_AT = 32
"""Sessions of which one may be found to give up its slot."""

log = structlog.get_logger(__name__)

Failed = Callable[[Session[Any], list[Job], KeepgateError], None]


class Residents:
    """on_failed(session, jobs, error): the jobs were given to `submit`, and none of them will be done.

    If the error is a SessionGoneError, nor will any others be.
    """

    def __init__(self, model: LoadedModel, engine: Engine, settings: Settings, on_failed: Failed) -> None:
        self.codec = Codec(model.spec)
        self.paged_out = 0
        self.paged_in = 0
        self.meter = engine.meter
        self.slots = model.network.slots
        self.engine = engine
        self._settings = settings
        self._on_failed = on_failed
        self.recent: OrderedDict[Session[Any], None] = OrderedDict()  # those with slots, the last used last
        self._jobs: dict[Session[Any], list[Job]] = {}  # of sessions that are on their way to a slot
        self._replaying: set[Session[Any]] = set()
        self._queue: deque[Callable[[int], None]] = deque()  # those who wait for a slot
        self._tasks: set[asyncio.Task[None]] = set()

    def history(self, position: int = 0, state: bytes | None = None) -> History:
        """The history of a new session."""
        return History(self.codec, *self._retention, position, state)

    def add(self, session: Session[Any]) -> None:
        """A session that was given a slot of this model."""
        self.recent[session] = None

    def submit(self, session: Session[Any], job: Job) -> None:
        """Have a job done on the session's state, after those that were given before."""
        jobs = self._jobs.get(session)
        if jobs is not None:
            jobs.append(job)
        elif session.slot != NO_SLOT and (not self.slots.is_shared(session.slot) or self._own(session)):
            self._hand(session, job)
        else:
            self._jobs[session] = [job]
            self._bring(session)

    def submit_frame(self, frame: Frame) -> None:
        """Have a step of many sessions done that are ready."""
        self.engine.submit_frame(frame)

    def is_ready(self, session: Session[Any]) -> bool:
        """Whether the session's state is in a slot of its own, and nothing is being done with it."""
        return session.slot != NO_SLOT and not self.slots.is_shared(session.slot) and self.is_idle(session)

    def bring(self, session: Session[Any]) -> None:
        """Have an idle session's state in a slot soon."""
        if session.slot == NO_SLOT and session not in self._jobs:
            self._jobs[session] = []
            self._bring(session)

    def used(self, session: Session[Any]) -> None:
        """The session was used just now; it gives up its slot after all others."""
        recent = self.recent
        if session in recent:
            recent.move_to_end(session)

    def serve_queue(self) -> None:
        """Jobs were done, so sessions may have become idle, and slots free."""
        while self._queue:
            slot = self._allocate()
            if slot is None:
                return
            self._queue.popleft()(slot)

    def is_idle(self, session: Session[Any]) -> bool:
        """Whether nothing is being done with the session's state."""
        at_rest = session.position == session.tail
        return at_rest and session not in self._jobs and session not in self._replaying

    @property
    def is_unused(self) -> bool:
        """Whether there is neither work nor state: whatever is on its way has a slot, or is noted here."""
        if self.recent or self._jobs or self._replaying or self._queue or self._tasks:
            return False
        return self.slots.free == self.slots.capacity

    def remove(self, session: Session[Any]) -> None:
        """The session is over, and nothing is in flight. Its slot is free once no replay needs it."""
        if session in self._replaying:
            return
        session.suspend()
        slot = session.take_free_slot()
        if slot is not None:
            self.recent.pop(session, None)
            if self.slots.release(slot):
                self.serve_queue()

    def leave(self, session: Session[Any]) -> None:
        """Take an idle session's slot away; it comes back from its history."""
        session.suspend()
        slot, session.slot = session.slot, NO_SLOT
        if slot != NO_SLOT:
            del self.recent[session]
            self.slots.release(slot)

    def share(self, session: Session[Any], twin: Session[Any]) -> None:
        """Give `twin` the state of an idle session: the same slot, till one of them is stepped."""
        if session.slot != NO_SLOT:
            session.suspend()
            twin.slot = self.slots.share(session.slot)
            self.recent[twin] = None

    def with_slot(self, then: Callable[[int], None]) -> None:
        """Call `then` with a slot of its own, at once or when there is one; zeros are in it."""
        slot = None if self._queue else self._allocate()
        if slot is None:
            self._queue.append(then)
        else:
            then(slot)

    def release(self, slot: int) -> None:
        """Give back what `with_slot` gave."""
        self.slots.release(slot)
        self.serve_queue()

    async def state(self, session: Session[Any]) -> bytes:
        """The state of an idle session. Raises as `recall`."""
        if session.slot != NO_SLOT and self.is_idle(session):
            return self.slots.read(session.slot)
        history = await self.recall(session)
        return await replay(self, history, history.position)

    async def recall(self, session: Session[Any]) -> History:
        """The session's history; a copy for the moment if it is in the store alone.

        Raises StoreUnavailableError, SessionLostError, SessionMovedError; after that one the session is over.
        """
        keeping = session.keeping
        if keeping.history is not None:
            return keeping.history
        try:
            held = await keeping.journal.fetch(keeping.name)
        except StoreError as error:
            raise StoreUnavailableError from error
        if held is None or held.epoch != keeping.epoch:
            if keeping.journal.store.shared:
                keeping.refused(Refusal.FENCED)
                raise SessionMovedError(session.session_id)
            raise SessionLostError(session.session_id)
        try:
            return History.restore(held.items, self.codec, *self._retention)
        except ValueError as error:
            log.error("a stored session is damaged", session=session.session_id, error=str(error))
            raise SessionLostError(session.session_id) from error

    async def close(self) -> None:
        """Stop fetching sessions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside ---

    @property
    def _retention(self) -> tuple[int, int]:
        return self._settings.retained_steps, self._settings.snapshot_steps

    def _hand(self, session: Session[Any], job: Job) -> None:
        job.slot = session.slot
        if session.keeping.known.wants_state(job.start + len(job.inputs)):
            job.keep_state = True
        self.engine.submit(job)

    def _own(self, session: Session[Any]) -> bool:
        """Whether the session's slot is its own, now if not before. If not, it has none any more."""
        if not self.slots.is_shared(session.slot):
            return True
        own = self.slots.separate(session.slot)
        if own is None and self._give_up_one():
            own = self.slots.separate(session.slot)
        if own is not None:
            session.slot = own
            return True
        self._page_out(session)
        return False

    def _bring(self, session: Session[Any]) -> None:
        if session.keeping.history is not None:
            session.keeping.leaving = False
            self.with_slot(lambda slot: self._place(session, slot))
            return
        task = asyncio.ensure_future(self._fetch(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, session: Session[Any]) -> None:
        try:
            history = await self.recall(session)
        except (StoreUnavailableError, SessionLostError, SessionMovedError) as error:
            self._on_failed(session, self._jobs.pop(session), error)
            return
        except Exception as error:  # a bug; whoever waits must hear of it
            log.error("a session could not be fetched", session=session.session_id, exc_info=error)
            self._on_failed(session, self._jobs.pop(session), SessionLostError(session.session_id))
            return
        session.keeping.restore(session.keeping.history or history)
        self.paged_in += 1
        self.with_slot(lambda slot: self._place(session, slot))

    def _place(self, session: Session[Any], slot: int) -> None:
        """Make a session's state again, and let the jobs that waited for it follow."""
        keeping = session.keeping
        if session.ended is not None and not self._jobs[session]:
            del self._jobs[session]
            self.release(slot)
            return
        keeping.leaving = False
        state, start, inputs = keeping.known.state_before(session.position)
        if state is not None:
            self.slots.write(slot, state)
        session.slot = slot
        self.recent[session] = None
        if inputs is not None:
            self._replaying.add(session)
            replay = Job(inputs, start, slot=slot, quiet=True)
            replay.when_done(lambda _: self._replayed(session))
            self.engine.submit(replay)
        for job in self._jobs.pop(session):
            self._hand(session, job)

    def _replayed(self, session: Session[Any]) -> None:
        self._replaying.discard(session)
        if session.ended is not None:
            self.remove(session)

    def _allocate(self) -> int | None:
        slot = self.slots.allocate()
        while slot is None and self._give_up_one():
            slot = self.slots.allocate()
        return slot

    def _give_up_one(self) -> bool:
        """Page out the session that was used least recently, of some that are idle. Whether one was."""
        for _ in range(0, len(self.recent) + LOOKED_AT, LOOKED_AT):
            any_bound = False
            for session in list(islice(self.recent, LOOKED_AT)):
                spare = session.bound is None or session.bound.spares(session)
                if spare and self.is_idle(session):
                    self._page_out(session)
                    return True
                any_bound |= session.bound is not None
                self.recent.move_to_end(session)
            if not any_bound:  # one that was only used lately is spared when it is asked again
                return False
        return False

    def _page_out(self, session: Session[Any]) -> None:
        keeping = session.keeping
        if session.position == keeping.known.position:
            keeping.known.keep_state(self.slots.read(session.slot))
        self.leave(session)
        self.paged_out += 1
        keeping.leaving = True
        keeping.write()
