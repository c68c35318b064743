"""One call of the kernel: what is in its lanes, and how its answers are read."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import structlog
from keepgate_kernels import Lanes, Network

from keepgate.engine.batcher import Item
from keepgate.engine.frame import Frame
from keepgate.engine.job import Job, Prediction, Scores
from keepgate.engine.meter import Meter
from keepgate.errors import ComputationError
from keepgate.request import Kind

log = structlog.get_logger(__name__)


class Batch:
    """Items in the lanes that compute them, item i in lane i. Or a frame, and no items.

    size: sessions. inputs: of all of them. asked: those of them that a request is about. seconds: that the
    computation took; busy_seconds: without those that its thread had to wait. error: why there are no
    answers; whatever goes wrong goes there, for it must not end the engine.
    """

    __slots__ = (
        "asked",
        "busy_seconds",
        "error",
        "frame",
        "hidden",
        "inputs",
        "items",
        "lanes",
        "seconds",
        "size",
    )

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.items: list[Item[Job]] = []
        self.frame: Frame | None = None
        self.size = 0
        self.inputs = 0
        self.asked = 0
        self.hidden: dict[int, list[np.ndarray[Any, np.dtype[np.float32]]]] = {}
        self.error: Exception | None = None
        self.seconds = self.busy_seconds = 0.0

    def take(self, items: list[Item[Job]], meter: Meter) -> None:
        """Fill the lanes with the items."""
        self.items = items
        self.size = len(items)
        add = self.lanes.add
        now = time.perf_counter()
        try:
            for job, steps, last in items:
                self.inputs += steps
                begin, quiet = job.offset, job.quiet
                if not quiet:
                    self.asked += 1
                    if not begin:
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
        except Exception as error:  # into `error`, as all of them
            self.error = error

    def take_frame(self, frame: Frame, meter: Meter) -> None:
        """Fill the lanes with a frame."""
        self.frame = frame
        self.size = self.inputs = self.asked = len(frame)
        try:
            frame.fill(self.lanes)
            frame.count(meter, time.perf_counter())
        except Exception as error:
            self.error = error

    def compute(self, network: Network) -> None:
        """Call the kernel. On any thread."""
        if self.error is not None:
            return
        begin, busy = time.perf_counter(), time.thread_time()
        try:
            network.step(self.lanes)
            if self.frame is not None:
                self.frame.take(network, self.lanes)
            # Here, for the next batch may step the same session before this one is handed out.
            for index, (job, _, last) in enumerate(self.items):
                if not last:
                    continue
                if job.options.wants.hidden:
                    self.hidden[index] = network.hidden(job.slot)
                if job.keep_state:
                    job.state = network.slots.read(job.slot)
        except Exception as error:
            self.error = error
        else:
            self.seconds, self.busy_seconds = time.perf_counter() - begin, time.thread_time() - busy

    def read(self) -> None:
        """Put each lane's answer into its job, but for jobs that have an error."""
        if self.error is not None:
            return
        for index, (job, steps, last) in enumerate(self.items):
            if job.error is not None:
                continue
            try:
                if job.kind is Kind.SCORE and not job.quiet:
                    self._read_scores(index, job, steps, last)
                elif last:
                    job.reply = self._prediction(index, job)
            except Exception as error:  # it must not keep the answers of the others
                log.error("an answer could not be read", exc_info=error)
                job.error = ComputationError()

    def _prediction(self, index: int, job: Job) -> Prediction:
        lanes = self.lanes
        wants = job.options.wants
        reply = Prediction(job.end)
        if self.hidden:
            reply.hidden = self.hidden.get(index)
        if wants.state:
            reply.state = job.state
        if job.quiet:
            return reply
        if not lanes.takes_tokens:
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

    def _read_scores(self, index: int, job: Job, steps: int, last: bool) -> None:
        scores = self.lanes.scores(index)
        begin = job.start + job.offset - steps  # the batcher has moved the offset on
        job.scores.append(scores[1 if begin == 0 else 0 :].copy())
        if last:
            job.reply = Scores(job.end, np.concatenate(job.scores))
            job.scores.clear()
