"""Servers that share a Redis: killed, stopped and taken over from; and a Redis that is away for a while."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from faults.calls import Connection, failure
from faults.conftest import Judge, Length
from faults.fleet import Seat
from faults.history import History
from faults.load import Load, Shape
from faults.rounds import EVERYSEC_SECONDS, survive
from keepgate_protos.v1 import sequences_pb2 as pb
from support.redis_server import RedisServer

LEASE_SECONDS = 0.5
LIVELY_SECONDS = 3.0
"""A lease that a server which lives renews in time."""
TAKEOVER_SECONDS = 90.0
CALL_SECONDS = 1.0
"""A call to a server that is stopped ends after so long, and the client turns to the other."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that makes all it acknowledges last."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture
def shared(seat: Callable[..., Seat], redis: RedisServer) -> Callable[..., Seat]:
    """A factory of seats that share the Redis."""

    def make(**settings: object) -> Seat:
        return seat(
            **{"store": redis.url, "durability": "always", "lease_seconds": LEASE_SECONDS, **settings}
        )

    return make


@pytest.mark.parametrize("durability", ["always", "everysec"])
def test_server_killed(shared: Callable[..., Seat], judge: Judge, length: Length, durability: str) -> None:
    async def run() -> None:
        served = shared(durability=durability)
        load = Load([served.address], Shape(seed=length.seed), History())
        often = durability == "always"
        await survive(served, load, length, length.some(0.3), longest=1.5 if often else 2.5)
        if often:
            await judge(load, "always, Redis, server killed")
        else:
            await judge(load, "everysec, Redis, server killed", may_lose_seconds=EVERYSEC_SECONDS)

    asyncio.run(run())


def test_takeover_from_a_server_that_was_killed(
    shared: Callable[..., Seat], judge: Judge, length: Length
) -> None:
    async def run() -> None:
        seats = [shared(lease_seconds=LIVELY_SECONDS) for _ in range(2)]
        rng = random.Random(length.seed)
        load = Load([s.address for s in seats], Shape(seed=length.seed), History())
        await asyncio.gather(*(s.start() for s in seats))
        try:
            await load.start()
            for number in range(length.some(0.3)):
                await asyncio.sleep(rng.uniform(0.3, 1.5))
                load.history.killed()
                seats[number % 2].kill()
                # The other one serves all sessions now; then both do.
                await asyncio.sleep(rng.uniform(0.3, 2.0) + (number % 2) * LIVELY_SECONDS)
                await seats[number % 2].start()
            await load.stop()
        finally:
            await load.abandon()
        for s in seats:
            assert await s.stop() == 0
        await judge(load, "always, Redis, takeover from a killed server")

    asyncio.run(run())


async def knock(address: str, sessions: list[str]) -> dict[str, int]:
    """Ask a server for a step at wherever it thinks that sessions are; what it answers, counted."""
    connection = Connection(address)
    heard: dict[str, int] = {}

    async def ask(session: str) -> None:
        request = pb.StepRequest(session_id=session, inputs=pb.Inputs(tokens=pb.Tokens(ids=[3])))
        try:
            await connection.stub.Step(request, timeout=10.0)
            reason = "applied"
        except grpc.RpcError as error:
            reason = failure(error).reason
        heard[reason] = heard.get(reason, 0) + 1

    try:
        await asyncio.gather(*(ask(session) for session in sessions))
    finally:
        await connection.close()
    return heard


async def one_server_has_all(redis: RedisServer, sessions: list[str]) -> None:
    """Return once one server alone has a lease, and every session."""
    client = redis.client()
    deadline = time.monotonic() + TAKEOVER_SECONDS
    while True:
        names: list[bytes] = client.keys("keepgate:server:*")  # type: ignore[assignment]
        leases = {name.removeprefix(b"keepgate:server:") for name in names}
        owners = {client.hget(f"keepgate:session:{session}", "owner") for session in sessions}
        if len(leases) == 1 and owners == leases:
            return
        assert time.monotonic() < deadline, (leases, owners)
        await asyncio.sleep(0.2)


def test_takeover_from_a_server_that_comes_back(
    shared: Callable[..., Seat], redis: RedisServer, judge: Judge, length: Length
) -> None:
    async def run() -> None:
        first, second = (shared(lease_seconds=LIVELY_SECONDS) for _ in range(2))
        shape = Shape(seed=length.seed, timeout=CALL_SECONDS)
        load = Load([first.address, second.address], shape, History())
        await asyncio.gather(first.start(), second.start())
        moved = 0
        try:
            await load.start()
            for _ in range(length.some(0.15)):
                await asyncio.sleep(1.0)
                first.pause()
                await one_server_has_all(redis, list(load.scripts))
                first.resume()
                heard = await knock(first.address, list(load.scripts))
                assert "applied" not in heard, heard
                assert set(heard) <= {"SESSION_MOVED", "SESSION_ELSEWHERE"}, heard
                moved += heard.get("SESSION_MOVED", 0)
                # Then the other one is away, and all come back.
                second.pause()
                await one_server_has_all(redis, list(load.scripts))
                second.resume()
            await load.stop()
        finally:
            await load.abandon()
        assert await first.stop() == 0
        assert await second.stop() == 0
        await judge(load, "always, Redis, takeover from a stopped server that comes back")
        assert moved + load.history.failures["SESSION_MOVED"] > 0

    asyncio.run(run())


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_redis_is_away(
    shared: Callable[..., Seat], redis: RedisServer, judge: Judge, length: Length, how: str
) -> None:
    async def run() -> None:
        served = shared(lease_seconds=5.0)
        rng = random.Random(length.seed)
        load = Load([served.address], Shape(seed=length.seed), History())
        await served.start()
        try:
            await load.start()
            for _ in range(length.some(0.15)):
                await asyncio.sleep(rng.uniform(0.3, 1.0))
                leave, come_back = (
                    (redis.freeze, redis.thaw) if how == "frozen" else (redis.kill, redis.start)
                )
                leave()
                await asyncio.sleep(rng.uniform(2.5, 5.0))
                await asyncio.to_thread(come_back)
            await load.stop()
        finally:
            await load.abandon()
        assert await served.stop() == 0
        await judge(load, f"always, Redis {how}")
        assert "store works again" in served.server.log()

    asyncio.run(run())
