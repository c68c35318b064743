"""Connections that may not get old: streams end in order, and a client loses no step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from keepgate_client import AsyncClient, Client, ConnectionAgedError, Prediction, RetryPolicy, Session, Stream
from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess
from support.wire import DEADLINE, connect, failure, step

AGE = 1.0
AGES = 3
"""Connections that each test outlives."""
WINDOW = 8


@pytest.fixture
def address(start_server: Callable[..., ServerProcess]) -> str:
    return start_server(connection_age_seconds=AGE, connection_age_grace_seconds=1).address


def drawn(predictions: list[Prediction]) -> list[tuple[object, ...]]:
    return [(p.position, p.token, p.log_probability) for p in predictions]


def tokens(count: int) -> list[int]:
    return [i * 7 % 30 for i in range(count)]


def test_a_stream_ends_when_all_that_it_sent_is_answered(address: str) -> None:
    with connect(address) as wire:
        session = wire.open()
        over = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield pb.StreamRequest(step=step(session, "a", 0))
            over.wait(DEADLINE)

        call: Any = wire.sequences.Stream(requests(), timeout=DEADLINE)
        assert next(call).step.position == 1
        error = failure(lambda: next(call))
        over.set()
        assert (error.code, error.reason) == ("UNAVAILABLE", "CONNECTION_AGED")
        assert wire.position(session) == 1


def test_the_client_goes_on_without_losing_a_step(address: str) -> None:
    with Client(address) as client, client.open("letters") as session, client.open("letters") as other:
        end = time.monotonic() + AGES * AGE
        with client.stream(window=WINDOW) as stream:
            futures = []
            while time.monotonic() < end:
                futures += [stream.step(session, tokens=[token]) for token in tokens(30)]
                futures[-1].result()
            answers = [future.result() for future in futures]
        sent = tokens(30) * (len(futures) // 30)
        again = [other.step(tokens=[token]) for token in sent[:90]]
        assert [answer.position for answer in answers] == list(range(1, len(sent) + 1))
        assert drawn(answers[:90]) == drawn(again)
        assert not any(answer.replayed for answer in answers)


def test_so_does_the_asyncio_client(address: str) -> None:
    async def run() -> list[int]:
        positions = []
        async with AsyncClient(address) as client, await client.open("letters") as session:
            end = time.monotonic() + AGES * AGE
            async with client.stream(window=WINDOW) as stream:
                while time.monotonic() < end:
                    futures = [stream.step(session, tokens=[token]) for token in tokens(30)]
                    positions += [(await future).position for future in futures]
        return positions

    positions = asyncio.run(run())
    assert positions == list(range(1, len(positions) + 1))


def keep_stepping(stream: Stream, session: Session) -> None:
    over = time.monotonic() + DEADLINE
    while time.monotonic() < over:
        for future in [stream.step(session, tokens=[1]) for _ in range(50)]:
            future.result()


def test_without_retries_it_is_an_error(address: str) -> None:
    with (
        Client(address, retry=RetryPolicy(attempts=1)) as client,
        client.open("letters") as session,
        client.stream() as stream,
    ):
        with pytest.raises(ConnectionAgedError) as caught:
            keep_stepping(stream, session)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_single_calls_do_not_notice(address: str) -> None:
    with connect(address) as wire:
        session = wire.open()
        end = time.monotonic() + AGES * AGE
        position = 0
        while time.monotonic() < end:
            position = wire.step(session, "a", position).position
        assert wire.position(session) == position
