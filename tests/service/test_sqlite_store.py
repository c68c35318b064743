"""The store in a SQLite file: the common cases, and what can befall a file."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from keepgate.errors import StoreError
from keepgate.sessions.stores import open_store, spill_store
from keepgate.sessions.stores.base import META, Change, Held, Store
from keepgate.sessions.stores.sqlite import LOG_BYTES, SCHEMA_VERSION, SqliteStore
from support.stores import A, B, StoreMachine, StoreSuite, append, create, end

COMMAND_SECONDS = 60.0
MIB = 1 << 20


class File:
    """As `support.stores.Place`."""

    server_id = "the only one"

    def __init__(self, directory: Path) -> None:
        self.path = directory / "sessions.db"
        self.url = f"sqlite:{self.path}"
        self.opened: list[Store] = []

    def open(self) -> Store:
        store = open_store(self.url, server_id=self.server_id)
        self.opened.append(store)
        return store


class Spill(File):
    """The same for the store that ends with the process: what is written comes back to the same process."""

    def open(self) -> Store:
        self.opened.append(store := spill_store())
        return store


OPEN = """
import sys
from keepgate.errors import StoreError
from keepgate.sessions.stores import open_store
try:
    open_store(sys.argv[1], server_id="other")
except StoreError as error:
    print(error)
"""


def run(code: str, argument: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-c", code, argument]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_SECONDS)
    return result.stdout


@pytest.fixture
def place(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path)
    yield file
    for store in file.opened:
        store.close()


@pytest.fixture
def path(place: File) -> Path:
    return place.path


class TestFile(StoreSuite):
    """The common cases."""


class TestSpill(StoreSuite):
    """The common cases but for those of a successor."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[File]:
        file = Spill(tmp_path)
        yield file
        for store in file.opened:
            store.close()
        assert not list(tmp_path.iterdir())

    test_a_successor_finds_all = None  # type: ignore[assignment]
    test_what_a_killed_writer_was_told_is_there = None  # type: ignore[assignment]


def test_the_store_does_as_a_dictionary(tmp_path: Path) -> None:
    def opens() -> Callable[[], Store]:
        path = Path(tempfile.mkdtemp(dir=tmp_path)) / "sessions.db"
        return lambda: SqliteStore(path, synced=False)

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(opens)

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, deadline=None))


def test_held_lists_and_claims_all(place: File) -> None:
    store = place.open()
    names = [f"s{number}" for number in range(2_100)]
    store.commit([create(name, 3, 5, M=name.encode(), J0=b"x") for name in names])
    store.commit([end(name, 3, 6, "expired") for name in names[:1_050]])
    store.commit([create("bare", 3)])
    store.close()
    store = place.open()
    held = list(store.held())
    assert held[:1_050] == [Held(name, 3, 6, {}, "expired") for name in names[:1_050]]
    live = [Held(name, 4, 5, {META: name.encode()}) for name in names[1_050:]]
    assert held[1_050:] == [*live, Held("bare", 4, 0, {})]
    assert store.commit([append(names[-1], 4, 6)]) == {}
    assert store.load(names[-1]) == Held(names[-1], 4, 6, {b"M": names[-1].encode(), b"J0": b"x"})
    assert not store.shared


def test_commits_may_come_between_what_held_yields(place: File) -> None:
    store = place.open()
    names = [f"s{number}" for number in range(1_500)]
    store.commit([create(name, 1, 0, M=b"m") for name in names])
    for held in store.held():
        assert store.commit([append(held.session_id, held.epoch, 1)]) == {}
    assert [held.position for held in store.held()] == [1] * 1_500


def test_the_newest_ends_are_kept(path: Path) -> None:
    store = SqliteStore(path, most_ended=3)
    names = [f"s{number}" for number in range(8)]
    store.commit([create(name) for name in names])
    store.commit([end(name, 1, 1) for name in names[:5]])
    store.commit([end(name, 1, 1) for name in (names[7], names[5])])
    assert [held.session_id for held in store.held()] == [names[4], names[7], names[5], names[6]]
    store.close()
    store = SqliteStore(path, most_ended=3)
    store.commit([end(names[6], 2, 1)])
    assert [held.session_id for held in store.held()] == [names[7], names[5], names[6]]
    store.close()


def test_a_file_that_another_server_has_is_refused(place: File) -> None:
    store = place.open()
    assert run(OPEN, place.url) == f"SQLite file {place.path} is in use by another server\n"
    with pytest.raises(StoreError, match="in use"):
        SqliteStore(place.path)
    assert store.commit([create(A)]) == {}
    store.close()
    place.open()


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    content = b"no database " * 1_000
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a database"):
        SqliteStore(path)
    assert path.read_bytes() == content


def test_damage_is_an_error_and_no_data(place: File) -> None:
    store = place.open()
    names = [f"s{number}" for number in range(500)]
    store.commit([create(name, 1, 0, M=b"m" * 300) for name in names])
    store.close()
    size = place.path.stat().st_size
    with place.path.open("r+b") as file:
        file.seek(4_096 * 4)
        file.write(b"\xa5" * (size - 4_096 * 4))
    with pytest.raises(StoreError, match=r"sessions\.db: .*malformed"):
        list(place.open().held())


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE sessions (id)")
    database.close()
    with pytest.raises(StoreError, match="another program's database"):
        SqliteStore(path)
    database = sqlite3.connect(path)
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("sessions",)]
    database.close()


def test_another_versions_file_is_refused(place: File) -> None:
    place.open().close()
    database = sqlite3.connect(place.path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(StoreError, match=f"got schema version {SCHEMA_VERSION + 1}, expected"):
        place.open()


def test_an_error_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        SqliteStore(tmp_path / "nowhere" / "sessions.db")
    with pytest.raises(StoreError, match="unable to open database file"):
        SqliteStore(tmp_path)
    store = SqliteStore(tmp_path / "closed.db")
    store.close()
    with pytest.raises(StoreError, match=r"closed\.db"):
        store.commit([create(A)])


def test_a_failed_commit_leaves_nothing_behind(place: File) -> None:
    store = place.open()
    store.commit([create(A, 1, 0, M=b"m")])
    with pytest.raises(OverflowError):
        store.commit([append(A, 1, 1, J0=b"x"), create(B), create("c", 1, 2**64)])
    assert store.load(A) == Held(A, 1, 0, {b"M": b"m"})
    assert store.load(B) is None
    assert store.commit([create(B)]) == {}


FULL_DISK = """
import resource, sys
from pathlib import Path
from keepgate.errors import StoreError
from keepgate.sessions.stores.base import Change
from keepgate.sessions.stores.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
store.commit([Change("a", 1, 0, create=True)])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most))
change = None
for position in range(1, 1_000):
    change = Change("a", 1, position, {b"J%d" % position: bytes(20_000)})
    try:
        store.commit([change])
    except StoreError as error:
        print(error)
        break
for _ in range(3):
    try:
        store.commit([change])
    except StoreError:
        print("still full")
held = store.load("a")
print(held.position == change.position - 1 == len(held.items))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
store.commit([change])
held = store.load("a")
print(held.position == change.position == len(held.items) > 20)
"""


def test_a_full_disk_is_an_error_till_there_is_room(path: Path) -> None:
    first, *others = run(FULL_DISK, str(path)).splitlines()
    assert first.startswith(f"SQLite file {path}: ")
    assert others == ["still full"] * 3 + ["True", "True"]
    store = SqliteStore(path)
    held = store.load(A)
    assert held is not None
    assert held.items == {b"J%d" % position: bytes(20_000) for position in range(1, held.position + 1)}
    store.close()


def test_neither_log_nor_file_grow_with_the_number_of_commits(path: Path) -> None:
    store = SqliteStore(path, synced=False)
    store.commit([create(A)])
    for position in range(1, 101):
        put = {b"J%d" % position: bytes([position]) * MIB}
        assert store.commit([Change(A, 1, position, put, [b"J%d" % (position - 1)])]) == {}
        assert path.with_name(f"{path.name}-wal").stat().st_size < LOG_BYTES // 2
    store.close()
    assert path.stat().st_size < 4 * MIB
    assert not path.with_name(f"{path.name}-wal").exists()


def test_the_file_is_for_its_owner_alone(place: File) -> None:
    place.open()
    for path in place.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, name in {
        "sqlite:relative.db": "relative.db",
        f"sqlite:{tmp_path}/absolute.db": "absolute.db",
        f"sqlite://{tmp_path}/slashes.db": "slashes.db",
    }.items():
        store = open_store(url, server_id="me")
        assert store.describe().startswith("SQLite file ")
        assert store.describe().endswith(name)
        store.close()
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("url", "got"),
    [
        ("", "no URL"),
        ("sessions.db", "no URL"),
        ("sqlite:", "sqlite:..."),
        ("sqlite://", "sqlite:..."),
        ("sqlite://host/path", "sqlite:..."),
        ("redis:6379", "redis:..."),
        ("postgres://me:secret@host", "postgres:..."),
    ],
)
def test_a_url_that_names_no_store(url: str, got: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(url, server_id="me")
    assert str(caught.value) == (
        f"store: got {got}, expected sqlite:PATH, redis://HOST:PORT or rediss://HOST:PORT"
    )


def test_without_its_package_redis_is_an_error_that_says_so() -> None:
    said = run(f"import sys; sys.modules['redis'] = None\n{OPEN}", "redis://127.0.0.1")
    assert "pip install 'keepgate[redis]'" in said
