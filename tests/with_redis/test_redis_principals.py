"""Servers that share a store, and sessions that do not go to whom they do not belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keepgate_protos.v1 import sequences_pb2 as pb
from support.operator import wait_for
from support.redis_server import RedisServer
from support.servers import ServerProcess
from support.tokens import TokenFile, connect_as
from support.wire import failure

Start = Callable[..., ServerProcess]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.kill()


def test_a_session_goes_to_its_principal_alone(
    redis: RedisServer, start_server: Start, tmp_path: Path
) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    alice, bob = file.add("alice"), file.add("bob")
    settings = {"store": redis.url, "durability": "always", "tokens_file": file.path, "lease_seconds": 2}
    first, second = start_server(**settings), start_server(**settings)
    with (
        connect_as(first.address, alice) as before,
        connect_as(second.address, alice) as hers,
        connect_as(second.address, bob) as his,
    ):
        session = before.open()
        before.step(session, "abc", 0)
        key = f"keepgate:session:{session}"
        owned = redis.client().hmget(key, "owner", "epoch")
        assert failure(lambda: hers.position(session)).reason == "SESSION_ELSEWHERE"
        assert failure(lambda: his.position(session)).reason == "SESSION_NOT_FOUND"
        first.stop()  # from now on it may be claimed
        assert failure(lambda: his.step(session, "d", 3)).reason == "SESSION_NOT_FOUND"
        assert redis.client().hmget(key, "owner", "epoch") == owned
        assert failure(lambda: his.open(session_id=session)).reason == "SESSION_EXISTS"
        wait_for(lambda: hers.step(session, "d", 3).position == 4)
        assert redis.client().hmget(key, "owner", "epoch") != owned
        assert failure(lambda: his.position(session)).reason == "SESSION_NOT_FOUND"


def test_an_end_is_told_to_its_principal_alone(
    redis: RedisServer, start_server: Start, tmp_path: Path
) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    alice, bob = file.add("alice"), file.add("bob")
    server = start_server(store=redis.url, durability="always", tokens_file=file.path)
    with connect_as(server.address, alice) as hers, connect_as(server.address, bob) as his:
        session = hers.open()
        hers.close(session)
        for _ in range(2):
            assert failure(lambda: hers.position(session)).reason == "SESSION_CLOSED"
            assert failure(lambda: his.position(session)).reason == "SESSION_NOT_FOUND"


def test_nobody_takes_an_id_that_is_another_servers(
    redis: RedisServer, start_server: Start, tmp_path: Path
) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    alice, bob = file.add("alice"), file.add("bob")
    settings = {"store": redis.url, "durability": "none", "tokens_file": file.path}
    first, second = start_server(**settings), start_server(**settings)
    always = pb.DURABILITY_ALWAYS
    with (
        connect_as(first.address, alice) as before,
        connect_as(second.address, alice) as hers,
        connect_as(second.address, bob) as his,
    ):
        session = before.open(session_id="taken", durability=always)
        own = his.open()
        blob = his.export(own)
        attempts = [
            lambda: his.open(session_id=session, durability=pb.DURABILITY_NONE),
            lambda: his.open(session_id=session, durability=always),
            lambda: hers.open(session_id=session, durability=pb.DURABILITY_NONE),
            lambda: his.fork(own, fork_id=session),
            lambda: his.import_session(blob, session_id=session),
        ]
        for attempt in attempts:
            assert failure(attempt).reason == "SESSION_EXISTS"
        before.close(session)
        assert his.open(session_id=session) == session
