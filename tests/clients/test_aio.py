"""The asyncio client against a real server: that it does what the synchronous one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from keepgate_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidArgumentError,
    SessionBusyError,
    SessionClosedError,
    StepSkippedError,
)
from support.proxy import Proxy
from support.servers import ServerProcess

TEXT = "the quick brown fox"


def test_same_results_as_the_synchronous_client(server: ServerProcess, client: Client) -> None:
    async def run() -> list[object]:
        async with AsyncClient(server.address) as aio:
            results: list[object] = [await aio.models(), await aio.model("letters")]
            results.append((await aio.score("letters", text=TEXT)).log_likelihood)
            async with aio.open("letters") as session:
                results.append(await session.step(text="abc", logits=True))
                results.append(
                    [t async for t in session.generate("d", max_tokens=5, temperature=1.0, seed=3)]
                )
                results.append([t async for t in session.generate(max_tokens=5)])
                results.append([p async for p in session.stream(text=TEXT)])
                results.append((await session.score(text="xyz")).log_likelihood)
                results.append((await session.describe()).position)
                results.append(await session.close())
            return results

    expected: list[object] = [client.models(), client.model("letters")]
    expected.append(client.score("letters", text=TEXT).log_likelihood)
    with client.open("letters") as session:
        expected.append(session.step(text="abc", logits=True))
        expected.append(list(session.generate("d", max_tokens=5, temperature=1.0, seed=3)))
        expected.append(list(session.generate(max_tokens=5)))
        expected.append(list(session.stream(text=TEXT)))
        expected.append(session.score(text="xyz").log_likelihood)
        expected.append(session.describe().position)
        expected.append(session.close())
    assert asyncio.run(run()) == expected


def test_open_and_attach_can_be_awaited_or_entered(server: ServerProcess) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client:
            session = await client.open("letters")
            await session.step(text="abc")
            async with client.attach(session.session_id) as attached:
                assert attached.position == 3
            with pytest.raises(SessionClosedError):
                await session.step(text="d")
            listed = [info.session_id async for info in client.sessions(page_size=1)]
            assert session.session_id not in listed

    asyncio.run(run())


def test_many_sessions_over_one_stream(server: ServerProcess) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client:
            sessions = [await client.open("letters") for _ in range(20)]
            async with client.stream() as stream:
                rounds = [asyncio.gather(*(stream.step(s, text=c) for s in sessions)) for c in TEXT]
                for position, answers in enumerate([await r for r in rounds], start=1):
                    assert len({(a.token, a.log_probability) for a in answers}) == 1
                    assert {a.position for a in answers} == {position}
            for session in sessions:
                await session.close()

    asyncio.run(run())


def test_refusals_in_a_stream(server: ServerProcess) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client, client.open("ids") as session:
            async with client.stream() as stream:
                futures = [stream.step(session, tokens=t) for t in (1, 99, 2)]
                answers = await asyncio.gather(*futures, return_exceptions=True)
                assert [type(a) for a in answers[1:]] == [InvalidArgumentError, StepSkippedError]
                stream.step(session, tokens=2)
                with pytest.raises(SessionBusyError):
                    await session.step(tokens=2)
            assert session.position == 2

    asyncio.run(run())


def test_inputs_may_be_asynchronous(server: ServerProcess) -> None:
    async def readings() -> AsyncIterator[list[float]]:
        for i in range(5):
            await asyncio.sleep(0)
            yield [i / 8, 0.0, -i / 8]

    async def run() -> list[object]:
        async with AsyncClient(server.address) as client, client.open("vectors") as session:
            return [p async for p in session.stream(features=readings())]

    with Client(server.address) as client, client.open("vectors") as session:
        expected = list(session.stream(features=[[i / 8, 0.0, -i / 8] for i in range(5)]))
    assert asyncio.run(run()) == expected


def test_cancelled_and_late_steps_can_be_sent_again(server: ServerProcess) -> None:
    async def run() -> None:
        with Proxy(server.address) as proxy:
            async with AsyncClient(proxy.address) as client, client.open("letters") as session:
                before = await session.step(text="a")
                proxy.swallow_answers()
                with pytest.raises(DeadlineExceededError):
                    await session.step(text="b", timeout=0.2)
                task = asyncio.create_task(session.step(text="b"))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert session.position == before.position
                proxy.reset()
                after = await session.step(text="b")
                assert (after.position, after.replayed) == (2, True)

    asyncio.run(run())
