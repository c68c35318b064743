"""The engine without a server: what a failing tick takes with it."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest
from keepgate.engine.cost import CostModel
from keepgate.engine.engine import ComputeThread, Engine
from keepgate.engine.job import Job, Prediction
from keepgate.errors import ComputationError
from keepgate_kernels import Network
from support.random_models import feature_spec, random_tensors

GOOD = np.ones((2, 3), np.float32)
BAD = np.ones((2, 4), np.float32)
"""Features of the wrong length, as a bug in a conversion would let them through."""


def make() -> tuple[Network, Engine, ComputeThread, list[list[Job]]]:
    """An engine for four sessions, and the jobs that each of its batches finished."""
    spec = feature_spec(size=3)
    network = Network(spec, random_tensors(spec), slots=4)
    done: list[list[Job]] = []
    compute = ComputeThread()
    return network, Engine(network, compute, done.append, max_lanes=8), compute, done


def test_a_failing_tick_fails_its_jobs_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        _, engine, compute, done = make()
        with caplog.at_level(logging.ERROR):
            jobs = [Job(0, GOOD, 0), Job(1, BAD, 0), Job(1, GOOD, 2)]
            for job in jobs:
                engine.submit(job)
            for job in jobs:
                with pytest.raises(ComputationError, match="the server's log says why"):
                    await job.wait()
        assert done == [jobs]
        later = Job(2, GOOD, 0)
        engine.submit(later)
        reply = await later.wait()
        assert isinstance(reply, Prediction)
        assert reply.position == 2
        compute.close()

    asyncio.run(main())


def test_what_arrives_together_is_computed_together() -> None:
    async def main() -> None:
        _, engine, compute, done = make()
        jobs = [Job(slot, GOOD, 0) for slot in range(4)]
        for job in jobs:
            engine.submit(job)
        await asyncio.gather(*(job.wait() for job in jobs))
        assert done == [jobs]
        compute.close()

    asyncio.run(main())


def test_a_job_is_done_though_nobody_waits() -> None:
    async def main() -> None:
        network, engine, compute, _ = make()
        job = Job(0, GOOD, 0)
        engine.submit(job)
        waiter = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        reply = await job.wait()
        assert isinstance(reply, Prediction)
        assert any(layer.any() for layer in network.hidden(0))
        compute.close()

    asyncio.run(main())


def test_jobs_of_a_session_are_done_in_order() -> None:
    async def main() -> None:
        _, engine, compute, done = make()
        jobs = [Job(0, np.repeat(GOOD, 50, axis=0), 100 * index) for index in range(5)]
        for job in jobs:
            engine.submit(job)
        positions = [(await job.wait()).position for job in jobs]
        assert positions == [100, 200, 300, 400, 500]
        assert [job for jobs_of_a_batch in done for job in jobs_of_a_batch] == jobs
        compute.close()

    asyncio.run(main())


def test_costs_are_learnt_by_size_of_batch() -> None:
    cost = CostModel(flops_per_input=1_000_000)
    assert cost.estimate(1) == pytest.approx(2e-4)
    for _ in range(50):
        cost.learn(1, 1e-5)
        cost.learn(64, 64e-6)
    assert cost.estimate(1) == pytest.approx(1e-5)
    assert cost.estimate(100) == pytest.approx(100e-6)
    assert cost.estimate(1_000) == pytest.approx(1_000 * 2e-4)  # not met yet
