"""Jobs of the only caller: done when they are submitted, with the bits and errors of a batch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import numpy as np
import pytest
from keepgate.engine.compute import ComputeThread
from keepgate.engine.cost import MOST_SURPRISE, WEIGHT, CostModel
from keepgate.engine.engine import Engine
from keepgate.engine.job import Job, Prediction
from keepgate.errors import ComputationError, NotFiniteError
from keepgate.request import NO_OPTIONS, Kind, Options, Wants, digest
from keepgate_kernels import ModelSpec, Network, Sampling
from support.random_models import feature_spec, random_tensors, token_spec
from support.states import fill

ONE = np.array([1], np.uint32)
Check = Callable[[Network, Engine, list[list[Job]]], None]


def with_engine(spec: ModelSpec, check: Check) -> None:
    """An engine for four sessions whose batches of one cost little, and what its batches finished."""

    async def main() -> None:
        network = Network(spec, random_tensors(spec), slots=4)
        network.compile()
        done: list[list[Job]] = []

        def on_done(jobs: list[Job]) -> list[Job]:
            done.append(jobs)
            return jobs

        compute = ComputeThread()
        check(network, Engine(network, compute, on_done, max_lanes=8), done)
        compute.close()

    asyncio.run(main())


@pytest.mark.parametrize("spec", [token_spec(), feature_spec(size=3)], ids=["tokens", "features"])
def test_the_answers_are_those_of_a_batch(spec: ModelSpec) -> None:
    sampling = Sampling(temperature=0.9, top_k=5, seed=8) if spec == token_spec() else Sampling()
    inputs = ONE if spec == token_spec() else np.ones((1, 3), np.float32)
    options = Options(sampling)

    async def main() -> None:
        network = Network(spec, random_tensors(spec), slots=4)
        compute = ComputeThread()
        engine = Engine(network, compute, lambda jobs: jobs, max_lanes=8)
        for start in range(6):
            alone = Job(inputs, start, slot=0, options=options, alone=True)
            engine.submit(alone)
            others = [Job(inputs, start, slot=slot, options=options) for slot in (1, 2)]
            for job in others:
                engine.submit(job)
            replies = [await job.wait() for job in (alone, *others)]
            first = replies[0]
            assert isinstance(first, Prediction)
            for reply in replies[1:]:
                assert isinstance(reply, Prediction)
                assert (reply.position, reply.token) == (first.position, first.token)
                assert reply.log_probability == first.log_probability
                np.testing.assert_array_equal(reply.outputs, first.outputs)
        assert network.slots.read(0) == network.slots.read(1) == network.slots.read(2)
        assert engine.meter.succeeded == engine.meter.inputs == 18
        compute.close()

    asyncio.run(main())


def test_it_is_done_at_once_unless_something_is_before_it() -> None:
    def check(_: Network, engine: Engine, done: list[list[Job]]) -> None:
        first = Job(ONE, 0, slot=0, alone=True)
        engine.submit(first)
        assert first.settled
        waits = Job(ONE, 1, slot=0)
        behind = Job(ONE, 2, slot=0, alone=True)
        engine.submit(waits)
        engine.submit(behind)
        assert not waits.settled
        assert not behind.settled
        assert done == [[first]]

    with_engine(token_spec(), check)


def test_what_its_answer_brings_about_comes_after_it() -> None:
    def check(_: Network, engine: Engine, done: list[list[Job]]) -> None:
        first, second = Job(ONE, 0, slot=0, alone=True), Job(ONE, 1, slot=0, alone=True)
        first.when_done(lambda _: engine.submit(second))
        engine.submit(first)
        assert first.settled
        assert not second.settled
        assert done == [[first]]

    with_engine(token_spec(), check)


def test_what_is_more_than_a_prediction_waits_for_a_batch() -> None:
    def check(_: Network, engine: Engine, done: list[list[Job]]) -> None:
        hidden = Options(wants=Wants(hidden=True))
        for slot, job in enumerate(
            [
                Job(np.repeat(ONE, 2), 0, alone=True),
                Job(ONE, 0, alone=True, options=hidden),
                Job(ONE, 0, alone=True, kind=Kind.SCORE),
                Job(ONE, 0, alone=True, quiet=True),
            ]
        ):
            job.slot = slot
            engine.submit(job)
        assert done == []

    with_engine(token_spec(), check)


def test_what_is_not_finite_fails() -> None:
    def check(network: Network, engine: Engine, done: list[list[Job]]) -> None:
        fill(network.slots, 0, 3e38)
        job, other = Job(ONE, 5, slot=0, alone=True), Job(ONE, 0, slot=1, alone=True)
        engine.submit(job)
        engine.submit(other)
        assert isinstance(job.error, NotFiniteError)
        assert isinstance(other.reply, Prediction)
        assert done == [[job], [other]]
        assert engine.meter.failed == 1

    with_engine(token_spec("rnn_relu"), check)


def test_a_bug_fails_its_job_only(caplog: pytest.LogCaptureFixture) -> None:
    def check(_: Network, engine: Engine, done: list[list[Job]]) -> None:
        bad = Job(np.ones((1, 4), np.float32), 0, slot=0, alone=True)
        good = Job(np.ones((1, 3), np.float32), 0, slot=0, alone=True)
        with caplog.at_level(logging.ERROR):
            engine.submit(bad)
        engine.submit(good)
        assert isinstance(bad.error, ComputationError)
        assert isinstance(good.reply, Prediction)

    with_engine(feature_spec(size=3), check)


def test_one_slow_batch_says_little_about_the_next() -> None:
    cost = CostModel(flops_per_input=1_000)
    cost.learn(1, 1e-5)
    cost.learn(1, 1.0)
    assert cost.estimate(1) == pytest.approx(1e-5 * (1 + WEIGHT * (MOST_SURPRISE - 1)))


def test_requests_that_differ_have_other_digests() -> None:
    short = [np.array(ids, np.uint32) for ids in ([0], [1], [0, 0], [0, 1], [0, 0, 0], [1, 0, 0])]
    asked = [NO_OPTIONS, Options(Sampling(seed=1)), Options(wants=Wants(top_k=1)), Options(more=b"\0")]
    requests = [(kind, inputs, options) for kind in Kind for inputs in short for options in asked]
    assert len({digest(*request) for request in requests}) == len(requests)
    assert digest(Kind.STEP, ONE, Options()) == digest(Kind.STEP, ONE.copy(), NO_OPTIONS)
