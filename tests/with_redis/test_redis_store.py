"""The store on Redis: the common cases, leases, and what can befall a Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from keepgate.errors import SessionElsewhereError, StoreError
from keepgate.sessions.stores import open_store
from keepgate.sessions.stores.base import Change, Held, Refusal, Store
from keepgate.sessions.stores.redis import DAY_MS, RedisStore
from structlog.testing import capture_logs
from support.redis_server import RedisServer
from support.stores import A, B, StoreMachine, StoreSuite, append, create, end

SHORT_LEASE = 0.3
LONGEST_WAIT = 30.0


class Place:
    """As `support.stores.Place`, and with several servers at a time."""

    server_id = "server-1"

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened: list[Store] = []

    def open(self, server_id: str = server_id, lease_seconds: float = 60.0) -> Store:
        store = open_store(self.url, server_id=server_id, lease_seconds=lease_seconds)
        self.opened.append(store)
        return store

    def close(self) -> None:
        for store in self.opened:
            store.close()


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that no test stops."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def place(common: RedisServer) -> Iterator[Place]:
    """Empty."""
    with common.client() as client:
        client.flushall()
    place = Place(common.url)
    yield place
    place.close()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """A factory of servers of one's own: start_redis(requirepass="..."). They are killed after the test."""
    started: list[RedisServer] = []

    def start(**config: str) -> RedisServer:
        server = RedisServer(tmp_path / f"redis-{len(started)}", **config)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


class TestRedis(StoreSuite):
    """The common cases."""


def test_the_store_does_as_a_dictionary(common: RedisServer) -> None:
    def opens() -> Callable[[], Store]:
        prefix = f"{os.urandom(8).hex()}:"
        return lambda: RedisStore(common.url, server_id="me", prefix=prefix)

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(opens)

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, deadline=None))


# --- several servers ---


def claimed(store: Store, session_id: str) -> Held | None:
    """Claim as soon as it is possible."""
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return store.claim(session_id)
        except SessionElsewhereError as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(error.retry_after)


def test_a_session_of_a_server_that_lives_cannot_be_claimed(place: Place) -> None:
    one, two = place.open("one"), place.open("two")
    one.commit([create(A, 7, 3, M=b"m")])
    with pytest.raises(SessionElsewhereError) as caught:
        two.claim(A)
    assert 0 < caught.value.retry_after <= 60
    assert two.load(A) is None
    assert one.commit([append(A, 7, 4)]) == {}
    assert one.load(A) == Held(A, 7, 4, {b"M": b"m"})


def test_a_server_that_closes_gives_its_sessions_up(place: Place) -> None:
    one, two = place.open("one"), place.open("two")
    one.commit([create(A, 7, 3, M=b"m")])
    one.close()
    assert two.claim(A) == Held(A, 8, 3, {b"M": b"m"})
    assert two.load(A) == Held(A, 8, 3, {b"M": b"m"})


def test_a_server_that_is_silent_loses_what_others_claim_and_no_more(place: Place) -> None:
    one, two = place.open("one", SHORT_LEASE), place.open("two")
    one.commit([create(A, 7, 3, M=b"m"), create(B, 7, 3, M=b"m")])
    assert claimed(two, A) == Held(A, 8, 3, {b"M": b"m"})
    late = [append(A, 7, 4, J3=b"late"), append(B, 7, 4, J3=b"late")]
    assert one.commit(late) == {A: Refusal.FENCED}
    assert one.load(A) is None
    assert one.load(B) == Held(B, 7, 4, {b"M": b"m", b"J3": b"late"})
    assert two.commit([append(A, 8, 4, J3=b"good")]) == {}
    assert two.load(A) == Held(A, 8, 4, {b"M": b"m", b"J3": b"good"})
    with pytest.raises(SessionElsewhereError):
        one.claim(A)
    assert one.commit([create(A, 8, 9)]) == {A: Refusal.EXISTS}


def test_a_beat_prolongs_the_lease(place: Place) -> None:
    one, two = place.open("one", SHORT_LEASE), place.open("two")
    one.commit([create(A)])
    deadline = time.monotonic() + 3 * SHORT_LEASE
    while time.monotonic() < deadline:
        one.beat()
        with pytest.raises(SessionElsewhereError):
            two.claim(A)
    assert claimed(two, A) == Held(A, 2, 0, {})


def test_a_successor_has_its_predecessors_sessions_at_once(place: Place) -> None:
    place.open("one").commit([create(A, 7, 3, M=b"m")])
    successor = place.open("one")
    assert successor.claim(A) == Held(A, 8, 3, {b"M": b"m"})
    place.opened[0].close()  # and leaves the successor its lease
    with pytest.raises(SessionElsewhereError):
        place.open("two").claim(A)


def test_two_servers_cannot_create_the_same_session(place: Place) -> None:
    one, two = place.open("one"), place.open("two")
    assert one.commit([create(A, 7, 0, M=b"one")]) == {}
    assert two.commit([create(A, 7, 0, M=b"two")]) == {A: Refusal.EXISTS}
    assert one.load(A) == Held(A, 7, 0, {b"M": b"one"})


def test_all_servers_know_how_a_session_ended(place: Place) -> None:
    one, two = place.open("one"), place.open("two")
    one.commit([create(A, 7, 3, M=b"m")])
    one.commit([end(A, 7, 4, "expired")])
    assert two.claim(A) == Held(A, 7, 4, {}, "expired")
    assert two.commit([create(A, 9)]) == {}
    assert two.load(A) == Held(A, 9, 0, {})


def test_no_session_is_held_at_start(place: Place) -> None:
    store = place.open()
    store.commit([create(A)])
    store.close()
    store = place.open()
    assert store.shared
    assert list(store.held()) == []


# --- how long keys live ---


def test_sessions_that_nobody_touches_go(place: Place, common: RedisServer) -> None:
    store = place.open()
    store.commit([Change(A, 1, 0, create=True, idle_seconds=50), Change(B, 1, 0, create=True)])
    store.commit([end(B, 1, 1)])
    with common.client() as client:
        assert DAY_MS < int(client.pttl(f"keepgate:session:{A}")) <= DAY_MS + 50_000
        assert DAY_MS - 60_000 < int(client.pttl(f"keepgate:session:{B}")) <= DAY_MS
        client.pexpire(f"keepgate:session:{A}", 100_000)
        store.claim(A)
        assert DAY_MS < int(client.pttl(f"keepgate:session:{A}")) <= DAY_MS + 50_000
        client.pexpire(f"keepgate:session:{A}", 100_000)
        store.commit([Change(A, 2, 1, idle_seconds=float("inf"))])
        assert int(client.pttl(f"keepgate:session:{A}")) > 365 * DAY_MS


def test_only_sessions_and_leases_have_keys(place: Place, common: RedisServer) -> None:
    store = place.open("me")
    store.commit([create(A, 1, 0, M=b"m")])
    with common.client() as client:
        assert sorted(client.keys()) == [b"keepgate:server:me", b"keepgate:session:a"]
        store.close()
        assert client.keys() == [b"keepgate:session:a"]


# --- a Redis in trouble ---


def test_redis_may_go_and_come_back(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    store = Place(server.url).open()
    store.commit([create(A, 7, 0, M=b"m")])
    server.stop()
    change = append(A, 7, 1, J0=b"x")
    for _ in range(2):
        with pytest.raises(StoreError, match=f"127.0.0.1:{server.port}"):
            store.commit([change])
    calls: list[Callable[[], object]] = [store.beat, lambda: store.load(A), lambda: store.claim(A)]
    for call in calls:
        with pytest.raises(StoreError):
            call()
    server.start()
    store.beat()
    assert store.commit([change]) == {}
    assert store.load(A) == Held(A, 7, 1, {b"M": b"m", b"J0": b"x"})
    server.stop()
    server.start()
    assert store.commit([change]) == {}  # over a connection that broke unnoticed
    store.close()


def test_a_redis_that_does_not_answer_is_an_error(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    store = Place(server.url).open()
    store.commit([create(A, 7, 0, M=b"m")])
    server.freeze()
    changes = [append(A, 7, 1, J0=b"x"), create(B, 3)]
    with pytest.raises(StoreError, match=r"(?i)time"):
        store.commit(changes)
    server.thaw()
    assert store.commit(changes) == {}
    assert store.load(A) == Held(A, 7, 1, {b"M": b"m", b"J0": b"x"})
    store.close()


def test_what_redis_acknowledged_outlives_it(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    store = Place(server.url).open()
    names = [f"s{number}" for number in range(500)]
    store.commit([create(name, 1, 0, M=b"m") for name in names])
    store.commit([append(name, 1, 1, J0=b"x") for name in names])
    server.kill()
    server.start()
    for name in names:
        assert store.load(name) == Held(name, 1, 1, {b"M": b"m", b"J0": b"x"})
    store.close()


def test_scripts_may_be_forgotten(place: Place, common: RedisServer) -> None:
    store = place.open()
    with common.client() as client:
        for count in (1, 300):
            client.script_flush()
            names = [f"s{count}-{number}" for number in range(count)]
            assert store.commit([create(name) for name in names]) == {}
            client.script_flush()
            assert store.claim(names[-1]) == Held(names[-1], 2, 0, {})
        client.script_flush()
        store.close()
        assert client.keys("*server*") == []


def test_a_full_memory_is_an_error_till_there_is_room(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    store = Place(server.url).open()
    store.commit([create(A)])
    changes = [append(A, 1, 1, J0=b"x"), create(B)]
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreError, match="memory"):
            store.commit(changes)
        assert store.load(A) == Held(A, 1, 0, {})
        client.config_set("maxmemory", "0")
    assert store.commit(changes) == {}
    assert store.load(A) == Held(A, 1, 1, {b"J0": b"x"})
    store.close()


def test_a_damaged_session_is_an_error(place: Place, common: RedisServer) -> None:
    store = place.open()
    store.commit([create(A), create(B)])
    with common.client() as client:
        client.hdel(f"keepgate:session:{A}", "position")
        client.set(f"keepgate:session:{B}", "no hash")
    with pytest.raises(StoreError, match="session 'a' is damaged"):
        store.load(A)
    with pytest.raises(StoreError, match="WRONGTYPE"):
        store.load(B)


# --- opening ---


def test_no_redis_is_an_error(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    server.stop()
    with pytest.raises(StoreError, match=f"127.0.0.1:{server.port}"):
        open_store(server.url, server_id="me")


def test_passwords_are_for_redis_alone(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(requirepass="right")
    store = open_store(server.url, server_id="me")
    assert "right" not in store.describe()
    store.close()
    for wrong in ("wr0ng!", "wr0ng%20one"):
        with pytest.raises(StoreError, match=r"(?i)invalid.*password") as caught:
            open_store(server.url.replace("right", wrong), server_id="me")
        assert "wr0ng" not in f"{caught.value} {caught.value.__cause__}"
    with pytest.raises(StoreError, match=r"(?i)authentication"):
        open_store(server.url.replace(":right@", ""), server_id="me")


@pytest.mark.parametrize(
    "url", ["redis://me:s3cret@host:port", "redis://me:s3/cret@host", "redis://:s3@[host"]
)
def test_a_url_that_is_not_valid_is_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match="expected redis://") as caught:
        open_store(url, server_id="me")
    assert "s3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_redis_promises_is_told(start_redis: Callable[..., RedisServer]) -> None:
    for config, told, warned in (
        ({}, "appendonly yes, appendfsync always", []),
        ({"appendfsync": "everysec"}, "appendonly yes, appendfsync everysec", ["may lose"]),
        ({"appendonly": "no"}, "appendonly no, appendfsync always", ["may lose"]),
        ({"maxmemory": "1gb"}, "appendonly yes, appendfsync always", []),
        (
            {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"},
            "appendonly yes, appendfsync always",
            ["drops sessions"],
        ),
    ):
        server = start_redis(**config)
        with capture_logs() as logs:
            store = open_store(server.url, server_id="me")
        assert store.describe() == f"redis://127.0.0.1:{server.port}/0 ({told})"
        assert [entry["log_level"] for entry in logs] == ["warning"] * len(warned)
        assert all(text in entry["event"] for text, entry in zip(warned, logs, strict=True))
        store.close()


def test_redis_need_not_say_what_it_promises(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with server.client() as client:
        client.acl_setuser(
            "keepgate",
            enabled=True,
            passwords=["+word"],
            keys=["keepgate:*"],
            categories=["+@hash", "+@string", "+@keyspace", "+@scripting", "+@connection"],
        )
    with capture_logs() as logs:
        store = open_store(server.url.replace("://", "://keepgate:word@"), server_id="me")
    assert [entry["event"] for entry in logs] == ["Redis does not say how lasting it is"]
    assert store.describe() == f"redis://127.0.0.1:{server.port}/0"
    assert store.commit([create(A), create(B)]) == {}
    assert store.claim(A) == Held(A, 2, 0, {})
    store.close()
