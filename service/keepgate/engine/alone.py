"""A batch of one step, as the only caller gets: what a batch does, without what it takes to make one."""

from __future__ import annotations

import time

import structlog
from keepgate_kernels import Lanes, Network

from keepgate.engine.job import Job, Prediction
from keepgate.errors import ComputationError, NotFiniteError
from keepgate.request import NOTHING_MORE, Kind

ALONE_SECONDS = 50e-6
"""A step cheaper than this runs alone if it may: about what being part of a batch costs on top. A dearer one
waits for the turn's end: others may share its pass over the weights, and of calls that come together none can
know of the next."""

log = structlog.get_logger(__name__)


def is_plain(job: Job) -> bool:
    """Whether a job is one input, and asks for the prediction after it and no more."""
    if job.kind is not Kind.STEP or len(job.inputs) > 1:
        return False
    return not (job.quiet or job.keep_state) and job.options.wants is NOTHING_MORE


def run(network: Network, lanes: Lanes, job: Job) -> float:
    """Do a plain job in lanes that are empty, and are so again. Seconds; fails only into `job.error`."""
    begin = time.perf_counter()
    try:
        position = job.start + 1
        lanes.add(job.slot, job.inputs, position=position, sampling=job.options.sampling)
        network.step(lanes)
        job.offset = 1
        if not lanes.all_finite:
            job.error = NotFiniteError()
        elif lanes.takes_tokens:
            job.reply = Prediction(position, lanes.token(0), lanes.log_probability(0))
        else:
            job.reply = Prediction(position, outputs=lanes.outputs(0).copy())
    except Exception as error:  # whatever it is, it must not end the engine
        log.error("tick failed", sessions=1, exc_info=error)
        job.error = ComputationError()
    lanes.clear()
    return time.perf_counter() - begin
