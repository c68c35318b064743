"""The engine without a server: what a failing tick takes with it."""

from __future__ import annotations

import asyncio
import logging
import time

import numpy as np
import pytest
from keepgate.engine.compute import ComputeThread
from keepgate.engine.cost import CostModel
from keepgate.engine.engine import QUANTUM, Engine
from keepgate.engine.job import Job, Prediction, Scores
from keepgate.errors import ComputationError, NotFiniteError, QueueTimeoutError
from keepgate.request import Kind, Options, Wants
from keepgate_kernels import ModelSpec, Network, Sampling, sample, top_tokens
from support.random_models import feature_spec, random_tensors, token_spec
from support.states import fill

GOOD = np.ones((2, 3), np.float32)
BAD = np.ones((2, 4), np.float32)
"""Features of the wrong length, as a bug in a conversion would let them through."""


def make(spec: ModelSpec | None = None) -> tuple[Network, Engine, ComputeThread, list[list[Job]]]:
    """An engine for four sessions, and the jobs that each of its batches finished."""
    spec = spec or feature_spec(size=3)
    network = Network(spec, random_tensors(spec), slots=4)
    done: list[list[Job]] = []
    compute = ComputeThread()

    def on_done(jobs: list[Job]) -> list[Job]:
        done.append(jobs)
        return jobs

    return network, Engine(network, compute, on_done, max_lanes=8), compute, done


def test_a_failing_tick_fails_its_jobs_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        _, engine, compute, done = make()
        with caplog.at_level(logging.ERROR):
            jobs = [Job(GOOD, 0, slot=0), Job(BAD, 0, slot=1), Job(GOOD, 2, slot=1)]
            for job in jobs:
                engine.submit(job)
            for job in jobs:
                with pytest.raises(ComputationError, match="the server's log says why"):
                    await job.wait()
        assert done == [jobs]
        later = Job(GOOD, 0, slot=2)
        engine.submit(later)
        reply = await later.wait()
        assert isinstance(reply, Prediction)
        assert reply.position == 2
        compute.close()

    asyncio.run(main())


def test_what_arrives_together_is_computed_together() -> None:
    async def main() -> None:
        _, engine, compute, done = make()
        jobs = [Job(GOOD, 0, slot=slot) for slot in range(4)]
        for job in jobs:
            engine.submit(job)
        await asyncio.gather(*(job.wait() for job in jobs))
        assert done == [jobs]
        compute.close()

    asyncio.run(main())


def test_a_job_is_done_though_nobody_waits() -> None:
    async def main() -> None:
        network, engine, compute, _ = make()
        job = Job(GOOD, 0, slot=0)
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
        jobs = [Job(np.repeat(GOOD, 50, axis=0), 100 * index, slot=0) for index in range(5)]
        for job in jobs:
            engine.submit(job)
        positions = [(await job.wait()).position for job in jobs]
        assert positions == [100, 200, 300, 400, 500]
        assert [job for jobs_of_a_batch in done for job in jobs_of_a_batch] == jobs
        compute.close()

    asyncio.run(main())


def test_each_job_gets_what_it_wants() -> None:
    async def main() -> None:
        _, engine, compute, done = make(token_spec())
        sampling = Sampling(temperature=0.8, top_k=6, seed=4)
        wishes = [Wants(), Wants(top_k=11, logits=True), Wants(top_k=2), Wants(logits=True)]
        tokens = np.array([1, 2], np.uint32)
        jobs = [
            Job(tokens, 0, slot=slot, options=Options(sampling, wants)) for slot, wants in enumerate(wishes)
        ]
        for job in jobs:
            engine.submit(job)
        plain, both, two, logits = [await job.wait() for job in jobs]
        again = Job(tokens, 2, slot=0)  # reuses the memory that the answers were read from
        engine.submit(again)
        await again.wait()
        assert done == [jobs, [again]]
        assert isinstance(plain, Prediction)
        assert isinstance(both, Prediction)
        assert isinstance(two, Prediction)
        assert isinstance(logits, Prediction)
        assert both.logits is not None
        assert both.top is not None
        assert two.top is not None
        assert logits.logits is not None
        assert [plain.top, plain.logits, two.logits, logits.top] == [None] * 4
        assert logits.logits.tobytes() == both.logits.tobytes()
        drawn = sample(both.logits, 2, sampling)
        for reply in (plain, both, two, logits):
            assert (reply.token, reply.log_probability) == drawn
        for reply, count in ((both, 11), (two, 2)):
            assert reply.top is not None
            for found, expected in zip(reply.top, top_tokens(both.logits, count), strict=True):
                np.testing.assert_array_equal(found, expected)
        compute.close()

    asyncio.run(main())


def test_what_is_not_finite_fails_alone() -> None:
    """A prediction and a score whose states overflow, beside ones of other sessions that do not."""

    async def main() -> None:
        network, engine, compute, done = make(token_spec("rnn_relu"))
        for slot in range(2):
            fill(network.slots, slot, 3e38)
        one, two = np.ones(1, np.uint32), np.ones(2, np.uint32)
        jobs = [
            Job(one, 5, slot=0),
            Job(two, 5, slot=1, kind=Kind.SCORE),
            Job(one, 0, slot=2),
            Job(two, 0, slot=3, kind=Kind.SCORE),
        ]
        behind = Job(one, 6, slot=0)
        for job in [*jobs, behind]:
            engine.submit(job)
        for job in (jobs[0], jobs[1], behind):
            with pytest.raises(NotFiniteError):
                await job.wait()
        assert isinstance(await jobs[2].wait(), Prediction)
        assert isinstance(await jobs[3].wait(), Scores)
        assert done == [[jobs[2], jobs[3], jobs[0], behind, jobs[1]]]
        compute.close()

    asyncio.run(main())


def test_a_long_score_ends_where_it_overflows() -> None:
    async def main() -> None:
        network, engine, compute, done = make(token_spec("rnn_relu"))
        fill(network.slots, 0, 3e38)
        job = Job(np.ones(1_000, np.uint32), 0, slot=0, kind=Kind.SCORE)
        engine.submit(job)
        with pytest.raises(NotFiniteError):
            await job.wait()
        assert done == [[job]]
        assert job.offset < len(job.inputs)
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


def test_what_waited_too_long_is_not_begun_nor_what_is_behind_it() -> None:
    async def main() -> None:
        _, engine, compute, done = make()
        late = Job(GOOD, 2, slot=0, deadline=1e-9)
        jobs = [Job(GOOD, 0, slot=0), late, Job(GOOD, 4, slot=0), Job(GOOD, 0, slot=1, deadline=1e12)]
        for job in jobs:
            engine.submit(job)
        for job, is_done in zip(jobs, (True, False, False, True), strict=True):
            if is_done:
                reply = await job.wait()
                assert isinstance(reply, Prediction)
                assert reply.position == 2
            else:
                with pytest.raises(QueueTimeoutError, match="nothing of it was applied"):
                    await job.wait()
                assert job.offset == 0
        assert done == [[jobs[0], jobs[3]], [late, jobs[2]]]
        assert (engine.meter.succeeded, engine.meter.failed) == (2, 2)
        after = Job(GOOD, 2, slot=0)
        engine.submit(after)
        assert isinstance(await after.wait(), Prediction)
        compute.close()

    asyncio.run(main())


def test_one_that_has_begun_is_done_whatever_its_deadline() -> None:
    async def main() -> None:
        _, engine, compute, _ = make()
        long = Job(np.ones((QUANTUM * 3, 3), np.float32), 0, slot=0, deadline=time.perf_counter() + 1e6)
        engine.submit(long)
        await asyncio.sleep(0)  # the first turn
        long.deadline = 1e-9
        assert isinstance(await long.wait(), Prediction)
        compute.close()

    asyncio.run(main())


def test_what_waited_too_long_ends_after_the_answers_before_it() -> None:
    async def main() -> None:
        spec = feature_spec(size=3, hidden=(512,))  # a batch of it goes to the compute thread
        _, engine, compute, done = make(spec)
        jobs = [Job(np.ones((64, 3), np.float32), 0, slot=0), Job(GOOD, 64, slot=0, deadline=1e-9)]
        for job in jobs:
            engine.submit(job)
        assert isinstance(await jobs[0].wait(), Prediction)
        with pytest.raises(QueueTimeoutError):
            await jobs[1].wait()
        assert done == [[], [jobs[0]], [jobs[1]]]
        compute.close()

    asyncio.run(main())
