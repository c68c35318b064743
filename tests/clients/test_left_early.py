"""Loops over generations and streams that are left early: the session stays usable, and none leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from keepgate_client import (
    AsyncClient,
    AsyncSession,
    Client,
    PositionMismatchError,
    Session,
    SessionBusyError,
    SessionClosedError,
    StepMismatchError,
)
from support.servers import ServerProcess

LONG = 16_000
"""Tokens; a generation of so many is under way for as long as a test takes."""

Start = Callable[[Session], Iterator[Any]]
AsyncStart = Callable[[AsyncSession], AsyncIterator[Any]]

LOOPS: list[Any] = [
    pytest.param(lambda s: s.generate("king", max_tokens=LONG), id="generate"),
    pytest.param(lambda s: s.stream(text="a" * LONG), id="stream"),
    pytest.param(lambda s: s.stream(tokens=[1] * LONG, window=8), id="ahead"),
]


@pytest.mark.parametrize("start", LOOPS)
def test_with_ends_a_loop_still_referred_to(client: Client, start: Start) -> None:
    with client.open("letters") as session:
        loop = start(session)
        next(loop)
    with pytest.raises(SessionClosedError):
        session.describe()
    assert list(loop) == []


@pytest.mark.parametrize("start", LOOPS)
def test_resync_ends_a_loop_still_referred_to(client: Client, start: Start) -> None:
    with client.open("letters") as session:
        loop = start(session)
        next(loop)
        ahead = session.resync().position
        assert session.step(text="a").position == ahead + 1
        assert list(loop) == []


@pytest.mark.parametrize("start", LOOPS)
def test_async_with_ends_a_loop_left_by_break(server: ServerProcess, start: AsyncStart) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client:
            async with await client.open("letters") as session:
                async for _ in start(session):
                    break
            with pytest.raises(SessionClosedError):
                await session.describe()
            async with client.open("letters") as session:
                loop = start(session)
                await anext(loop)
            with pytest.raises(SessionClosedError):
                await session.describe()

    asyncio.run(run())


@pytest.mark.parametrize("start", LOOPS)
def test_async_resync_ends_a_loop_left_by_break(server: ServerProcess, start: AsyncStart) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client, client.open("letters") as session:
            async for _ in start(session):
                break
            ahead = (await session.resync()).position
            loop = start(session)
            await anext(loop)
            assert (await session.resync()).position > ahead
            position = session.position
            assert (await session.step(text="a")).position == position + 1
            assert [item async for item in loop] == []

    asyncio.run(run())


def test_async_calls_wait_only_for_a_loop_that_nobody_can_go_on_with(server: ServerProcess) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client, client.open("letters") as session:
            async for _ in session.generate("king", max_tokens=LONG):
                break
            with suppress(PositionMismatchError, StepMismatchError):  # the server may be a token ahead
                await session.step(text="ab")
            await session.resync()
            loop = session.generate("king", max_tokens=LONG)
            await anext(loop)
            with pytest.raises(SessionBusyError, match="step was called while generate runs"):
                await session.step(text="a")
            await anext(loop)

    asyncio.run(run())


def test_a_loop_that_has_not_begun_outlives_resync(client: Client) -> None:
    with client.open("letters") as session:
        loop = session.generate("king", max_tokens=3)
        session.resync()
        assert len(list(loop)) == 3
