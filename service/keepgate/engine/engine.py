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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import structlog
from keepgate_kernels import Lanes, Network
from keepgate_kernels.spec import TokenInput

from keepgate.engine.alone import ALONE_SECONDS, is_plain, run
from keepgate.engine.batcher import Batcher, Item
from keepgate.engine.cost import CostModel
from keepgate.engine.job import Job, Prediction, Scores
from keepgate.engine.meter import Meter
from keepgate.errors import ComputationError, NotFiniteError
from keepgate.request import Kind

QUANTUM = 32
"""Inputs of one session in one tick."""
MAX_INPUTS = 16_384
"""Inputs of one tick over all sessions."""
INLINE_SECONDS = 100e-6
"""A batch cheaper than this runs on the loop: about what a hop to a thread and back costs."""

log = structlog.get_logger(__name__)


class ComputeThread:
    """One thread, shared by all engines of the process: the kernels need the cores, not each
    other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="keepgate-compute")
        self.closed = False

    def run(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on the thread, then `done` on the loop. Nothing if
        closed."""
        if not self.closed:
            self._executor.submit(self._call, work, done)

    def _call(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        work()
        self._loop.call_soon_threadsafe(self._came_back, done)

    def _came_back(self, done: Callable[[], None]) -> None:
        if not self.closed:  # else nobody waits any more, and nothing may follow
            done()

    def close(self) -> None:
        """Wait for the work that runs. What comes back from it, or is given later, is dropped."""
        self.closed = True
        self._executor.shutdown(wait=True)


class _Batch:
    """Items in the lanes that compute them. Item i is in lane i."""

    __slots__ = ("error", "hidden", "inputs", "items", "lanes", "seconds")

    def __init__(self, items: list[Item[Job]], lanes: Lanes) -> None:
        self.items = items
        self.lanes = lanes
        self.inputs = 0
        self.hidden: dict[int, list[np.ndarray[Any, np.dtype[np.float32]]]] = {}
        self.error: Exception | None = None
        self.seconds = 0.0


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
        self._compute_thread = compute
        self._on_done = on_done
        self._loop = asyncio.get_running_loop()
        self._batcher: Batcher[Job] = Batcher(max_lanes=max_lanes, max_inputs=MAX_INPUTS, quantum=QUANTUM)
        # Two: one holds the results being handed out while the other computes.
        self._spare = [Lanes(network.spec, max_lanes=max_lanes, max_inputs=MAX_INPUTS) for _ in range(2)]
        self._cost = CostModel(network.flops_per_step)
        self._is_token_model = isinstance(network.spec.input, TokenInput)
        self._scheduled = False
        self._running = False
        self._handing_out = False

    def submit(self, job: Job) -> None:
        """Take a job. It will be done, whoever stops waiting for it."""
        job.submitted = time.perf_counter()
        if job.alone and is_plain(job) and self._may_run_alone():
            self._run_alone(job)
            return
        self._batcher.add(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self._running:
            self._scheduled = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._scheduled = False
        if self._compute_thread.closed:
            return
        batch = self._gather()
        if batch is None:
            return
        if self._is_cheap(batch):
            self._run_here(batch)
        else:
            self._run_there(batch)

    def _gather(self) -> _Batch | None:
        items = self._batcher.next()
        if not items:
            return None
        batch = _Batch(items, self._spare.pop())
        add, meter = batch.lanes.add, self.meter
        now = time.perf_counter()
        try:
            for job, steps, last in items:
                batch.inputs += steps
                begin, quiet = job.offset, job.quiet
                if not begin and not quiet:
                    meter.queued += now - job.submitted
                end = begin + steps
                score = job.kind is Kind.SCORE and not quiet
                predict = last and not score and not quiet
                sampling, wants, _ = job.options
                add(
                    job.slot,
                    job.inputs if last and not begin else job.inputs[begin:end],
                    position=job.start + end,
                    sampling=sampling,
                    predict=predict,
                    score=score,
                    top_k=wants.top_k if predict else 0,
                    logits=wants.logits and predict,
                )
        except Exception as error:  # whatever it is, it must not end the engine
            batch.error = error
        return batch

    def _is_cheap(self, batch: _Batch) -> bool:
        return self._cost.estimate(batch.inputs) < INLINE_SECONDS

    def _may_run_alone(self) -> bool:
        """Whether a batch of one input may run now, on the loop, and by whoever submits it."""
        if self._handing_out or self._compute_thread.closed or not self._batcher.is_idle:
            return False
        return self._cost.estimate(1) < ALONE_SECONDS

    def _run_alone(self, job: Job) -> None:
        seconds = run(self._network, self._spare[-1], job)
        if job.error is None:
            self._cost.learn(1, seconds)
        self._count(1, seconds, [job])
        self._tell([job])

    def _run_here(self, batch: _Batch) -> None:
        self._compute(batch)
        self._hand_out(batch, self._collect(batch))
        if self._batcher.waiting:
            self._schedule()

    def _run_there(self, batch: _Batch) -> None:
        self._running = True
        self._compute_thread.run(lambda: self._compute(batch), lambda: self._came_back(batch))

    def _compute(self, batch: _Batch) -> None:
        """On either thread. Fails only into `batch.error`."""
        if batch.error is not None:
            return
        begin = time.perf_counter()
        try:
            self._network.step(batch.lanes)
            # Here, for the next batch may step the same session before this one is handed out.
            for index, (job, _, last) in enumerate(batch.items):
                if not last:
                    continue
                if job.options.wants.hidden:
                    batch.hidden[index] = self._network.hidden(job.slot)
                if job.keep_state:
                    job.state = self._network.slots.read(job.slot)
        except Exception as error:  # whatever it is, it must not end the engine
            batch.error = error
        else:
            batch.seconds = time.perf_counter() - begin
            self._cost.learn(batch.inputs, batch.seconds)

    def _came_back(self, batch: _Batch) -> None:
        """Back on the loop: keep the compute thread busy first, then hand out the results."""
        self._running = False
        done = self._collect(batch)
        following = self._gather()
        if following is not None and not self._is_cheap(following):
            self._run_there(following)
            following = None
        self._hand_out(batch, done)
        if following is not None:
            self._run_here(following)

    def _collect(self, batch: _Batch) -> list[Job]:
        """Tell the batcher; the jobs that are over, in the order of their lanes."""
        if batch.error is not None:
            log.error("tick failed", sessions=len(batch.items), exc_info=batch.error)
            return self._fail(batch.items, ComputationError)
        lanes = batch.lanes
        if lanes.all_finite:
            return self._batcher.finish(batch.items)
        kept: list[Item[Job]] = []
        lost: list[Item[Job]] = []
        for index, item in enumerate(batch.items):
            (kept if lanes.is_finite(index) else lost).append(item)
        return self._batcher.finish(kept) + self._fail(lost, NotFiniteError)

    def _fail(self, items: list[Item[Job]], kind: type[ComputationError | NotFiniteError]) -> list[Job]:
        """End all work of the items' sessions, what waits behind them included; the jobs."""
        jobs = [job for item in items for job in self._batcher.drop(item.work.slot)]
        for job in jobs:
            job.error = kind()
        return jobs

    def _hand_out(self, batch: _Batch, done: list[Job]) -> None:
        """Read the answers, free the lanes, and tell those who wait."""
        if batch.error is None:
            for index, item in enumerate(batch.items):
                self._read(batch, index, item)
        batch.lanes.clear()
        self._spare.append(batch.lanes)
        self._count(len(batch.items), batch.seconds, done)
        self._tell(done)

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

    def _count(self, sessions: int, seconds: float, done: list[Job]) -> None:
        meter = self.meter
        meter.batches.add(sessions)
        meter.computing += seconds
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

    def _read(self, batch: _Batch, index: int, item: Item[Job]) -> None:
        """Read one lane's answer into its job."""
        job, steps, last = item
        if job.error is not None:
            return
        try:
            if job.kind is Kind.SCORE and not job.quiet:
                self._take_scores(batch.lanes, index, job, steps, last)
            elif last:
                job.reply = self._prediction(batch, index, job)
        except Exception as error:  # it must not keep the answers of the others either
            log.error("an answer could not be read", exc_info=error)
            job.error = ComputationError()

    def _prediction(self, batch: _Batch, index: int, job: Job) -> Prediction:
        lanes = batch.lanes
        wants = job.options.wants
        state = job.state if wants.state else None
        reply = Prediction(job.end)
        if batch.hidden:
            reply.hidden = batch.hidden.get(index)
        reply.state = state
        if job.quiet:
            return reply
        if not self._is_token_model:
            reply.outputs = lanes.outputs(index).copy()
            return reply
        reply.token = lanes.token(index)
        reply.log_probability = lanes.log_probability(index)
        if wants.top_k:
            tokens, log_probabilities = lanes.top(index)
            reply.top = tokens.copy(), log_probabilities.copy()
        if wants.logits:
            reply.logits = lanes.logits(index).copy()
        return reply

    def _take_scores(self, lanes: Lanes, index: int, job: Job, steps: int, last: bool) -> None:
        scores = lanes.scores(index)
        begin = job.start + job.offset - steps  # the batcher has moved the offset on
        job.scores.append(scores[1 if begin == 0 else 0 :].copy())
        if last:
            job.reply = Scores(job.end, np.concatenate(job.scores))
            job.scores.clear()
