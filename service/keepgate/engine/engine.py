"""Runs the jobs of one loaded model in batches.

The first submission of a loop iteration schedules the tick behind what else that iteration has to
do, so what arrived together is computed together and an idle server adds no wait; a job of the only
caller does not even wait for that. A cheap batch
runs on the event loop, for a hop to a thread and back costs more; a dear one runs on the compute
thread, without the GIL, while the next batch gathers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context

import structlog
from keepgate_kernels import Lanes, Network
from keepgate_kernels.errors import DeviceLostError

from keepgate.engine.alone import ALONE_SECONDS, is_plain, run
from keepgate.engine.batch import Batch
from keepgate.engine.batcher import Batcher, Item
from keepgate.engine.compute import ComputeThread
from keepgate.engine.cost import CostModel
from keepgate.engine.frame import Frame
from keepgate.engine.job import Job
from keepgate.engine.meter import Meter
from keepgate.errors import ComputationError, NotFiniteError, QueueTimeoutError

QUANTUM = 32
"""Inputs of one session in one tick."""
MAX_INPUTS = 16_384
"""Inputs of one tick over all sessions."""
INLINE_SECONDS = 100e-6
"""A batch cheaper than this runs on the loop: about what a hop to a thread and back costs."""
INLINE_FRAME_SECONDS = 3e-3
"""The same for a frame, for which the loop has about half a millisecond of other work. On a thread it would
wait for the interpreter's lock twice, and there is less to gain from computing beside the loop than that
costs."""

log = structlog.get_logger(__name__)


class Engine:
    """Owns a network and the lanes it computes in. Used from the event loop only.

    on_done gets the jobs that one batch finished, before those who wait for them are told: what must happen
    for a whole tick at once happens there. It returns those to settle now; it will see to the others.
    """

    def __init__(
        self,
        network: Network,
        compute: ComputeThread,
        on_done: Callable[[list[Job]], list[Job]],
        *,
        max_lanes: int,
    ) -> None:
        self.meter = Meter()
        self._network = network
        self._steps_alone = network.device == "cpu"  # to start another device takes longer than to gather
        self._compute_thread = compute
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # a batch is no call's, whichever came first
        self._batcher: Batcher[Job] = Batcher(max_lanes=max_lanes, max_inputs=MAX_INPUTS, quantum=QUANTUM)
        # Two: one holds the results being handed out while the other computes.
        self._spare = [Lanes(network.spec, max_lanes=max_lanes, max_inputs=MAX_INPUTS) for _ in range(2)]
        self._cost = CostModel(network.flops_per_step)
        self._frames: deque[Frame] = deque()
        self._after_frame = False  # frames and batches of jobs take turns
        self._scheduled = False
        self._running = False
        self._handing_out = False
        self._late: list[Job] = []  # waited too long, and were not told so yet
        self._has_deadlines = False  # once a job with one came: till then nobody looks for them

    def submit_frame(self, frame: Frame) -> None:
        """Take a frame of at most max_lanes rows. Frames are computed in their order; sessions that have one
        here must have no job here."""
        self._frames.append(frame)
        self.meter.taken += len(frame)
        if self._handing_out:
            self._schedule()
        elif not (self._scheduled or self._running):
            self._tick()  # what arrived together is together already

    def submit(self, job: Job) -> None:
        """Take a job. It will be done, whoever stops waiting for it."""
        job.submitted = time.perf_counter()
        self._has_deadlines |= job.deadline > 0
        if not job.quiet:
            self.meter.taken += 1
        if job.alone and is_plain(job) and self._may_run_alone():
            self._run_alone(job)
            return
        self._batcher.add(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._running:
            self._scheduled = True
            self._loop.call_soon(self._tick, context=self._context)

    def _tick(self) -> None:
        self._scheduled = False
        if self._compute_thread.closed or self._running:  # what comes back from the thread gathers again
            return
        batch = self._gather()
        self._tell_late()
        if batch is None:
            return
        if self._is_cheap(batch):
            self._run_here(batch)
        else:
            self._run_there(batch)

    @property
    def _waiting(self) -> bool:
        return bool(self._frames) or self._batcher.waiting

    def _gather(self) -> Batch | None:
        if self._frames and not (self._after_frame and self._batcher.waiting):
            self._after_frame = True
            batch = Batch(self._spare.pop())
            batch.take_frame(self._frames.popleft(), self.meter)
            return batch
        self._after_frame = False
        items = self._batcher.next()
        while self._has_deadlines and items and not (items := self._in_time(items)):
            items = self._batcher.next()
        if not items:
            return None
        batch = Batch(self._spare.pop())
        batch.take(items, self.meter)
        return batch

    def _in_time(self, items: list[Item[Job]]) -> list[Item[Job]]:
        """The items without those that waited too long to begin. These end, with what waits behind them: of a
        session either all is applied in order, or nothing."""
        now = time.perf_counter()
        late = [item for item in items if 0 < item.work.deadline < now and not item.work.offset]
        if not late:
            return items
        dropped = self._fail(late, QueueTimeoutError)
        self.meter.failed += len(dropped)
        self._late += dropped
        gone = {id(item) for item in late}
        return [item for item in items if id(item) not in gone]

    def _tell_late(self) -> None:
        late, self._late = self._late, []
        if late:
            self._tell(late)

    def _is_cheap(self, batch: Batch) -> bool:
        limit = INLINE_SECONDS if batch.frame is None else INLINE_FRAME_SECONDS
        return self._cost.estimate(batch.inputs) < limit

    def _may_run_alone(self) -> bool:
        """Whether a batch of one input may run now, on the loop, and by whoever submits it."""
        if self._handing_out or self._compute_thread.closed or not self._batcher.is_idle:
            return False
        return self._steps_alone and self._cost.estimate(1) < ALONE_SECONDS

    def _run_alone(self, job: Job) -> None:
        seconds = run(self._network, self._spare[-1], job)
        if job.error is None:
            self._cost.learn(1, seconds)
        self._count(1, 1, seconds, [job])
        self._tell([job])

    def _run_here(self, batch: Batch) -> None:
        self._compute(batch)
        if self._is_lost(batch):
            return
        self._hand_out(batch, self._collect(batch))
        if self._waiting:
            self._schedule()

    def _run_there(self, batch: Batch) -> None:
        self._running = True
        self._compute_thread.run(lambda: self._compute(batch), lambda: self._came_back(batch))

    def _compute(self, batch: Batch) -> None:
        """On either thread. Fails only into `batch.error`."""
        batch.compute(self._network)
        if batch.error is None:
            self._cost.learn(batch.inputs, batch.busy_seconds)

    def _came_back(self, batch: Batch) -> None:
        """Back on the loop: keep the compute thread busy first, then hand out the results."""
        self._running = False
        if self._is_lost(batch):
            return
        done = self._collect(batch)
        following = self._gather()
        if following is not None and not self._is_cheap(following):
            self._run_there(following)
            following = None
        self._hand_out(batch, done)
        self._tell_late()  # not before: the same session may have been answered just now
        if following is not None:
            self._run_here(following)

    def _is_lost(self, batch: Batch) -> bool:
        """Whether the device failed. Then the batch has no end: nothing of it was applied, and its sessions
        are what the store knows of them."""
        if not isinstance(batch.error, DeviceLostError):
            return False
        self._compute_thread.lose(batch.error)
        return True

    def _collect(self, batch: Batch) -> list[Job]:
        """Tell the batcher; the jobs that are over, in the order of their lanes."""
        if batch.error is not None:
            log.error("tick failed", sessions=batch.size, exc_info=batch.error)
            return self._fail(batch.items, ComputationError)
        lanes = batch.lanes
        if lanes.all_finite:
            return self._batcher.finish(batch.items)
        kept: list[Item[Job]] = []
        lost: list[Item[Job]] = []
        for index, item in enumerate(batch.items):
            (kept if lanes.is_finite(index) else lost).append(item)
        return self._batcher.finish(kept) + self._fail(lost, NotFiniteError)

    def _fail(
        self, items: list[Item[Job]], kind: type[ComputationError | NotFiniteError | QueueTimeoutError]
    ) -> list[Job]:
        """End all work of the items' sessions, what waits behind them included; the jobs."""
        jobs = [job for item in items for job in self._batcher.drop(item.work.slot)]
        for job in jobs:
            job.error = kind()
        return jobs

    def _hand_out(self, batch: Batch, done: list[Job]) -> None:
        """Read the answers, free the lanes, and tell those who wait."""
        batch.read()
        batch.lanes.clear()
        self._spare.append(batch.lanes)
        self._count(batch.size, batch.asked, batch.seconds, done)
        if batch.frame is not None:
            self._hand_out_frame(batch.frame, batch.error)
        self._tell(done)

    def _hand_out_frame(self, frame: Frame, failure: Exception | None) -> None:
        frame.error = failure
        frame.count(self.meter, None)
        self._handing_out = True
        try:
            frame.done()
        except Exception as error:  # as in `_tell`
            log.error("a frame could not be delivered", exc_info=error)
        finally:
            self._handing_out = False

    def _tell(self, done: list[Job]) -> None:
        self._handing_out = True
        try:
            for job in self._on_done(done):
                try:
                    job.settle()
                except Exception as error:  # one caller's failure must not keep the answers of the others
                    log.error("an answer could not be delivered", exc_info=error)
        finally:
            self._handing_out = False

    def _count(self, sessions: int, asked: int, seconds: float, done: list[Job]) -> None:
        meter = self.meter
        meter.batches.add(sessions)
        meter.computing += seconds
        meter.shared += seconds * asked
        now = time.perf_counter()
        for job in done:
            if job.quiet:
                continue
            if job.error is not None:
                meter.failed += 1
                continue
            meter.succeeded += 1
            meter.inputs += len(job.inputs)
            meter.answered.add(now - job.submitted)
        meter.last = time.time()
