"""What every store of sessions must do: the cases, for tests that say which store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from keepgate.sessions.stores.base import META, Change, Held, Refusal, Store

from support import store_writer

WRITER_SECONDS = 60.0
COMMITS = 25
A, B, C = "a", "b", "c"


class Place(Protocol):
    """Where a store is, empty at first. A store that is open must be closed before the next is opened."""

    url: str
    server_id: str

    def open(self) -> Store: ...


def create(session_id: str, epoch: int = 1, position: int = 0, **items: bytes) -> Change:
    return Change(session_id, epoch, position, _put(items), create=True)


def append(session_id: str, epoch: int, position: int, **items: bytes) -> Change:
    return Change(session_id, epoch, position, _put(items))


def _put(items: Mapping[str, bytes]) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in items.items()}


def end(session_id: str, epoch: int, position: int, how: str = "closed") -> Change:
    return Change(session_id, epoch, position, ended=how)


class StoreSuite:
    """`place` is a fixture of the module that inherits this."""

    @pytest.fixture
    def store(self, place: Place) -> Store:
        return place.open()

    def test_a_session_is_there_with_its_items_after_it_was_created(self, store: Store) -> None:
        assert store.commit([create(A, 7, 3, M=b"meta", J1=b"\x00\xff")]) == {}
        assert store.load(A) == Held(A, 7, 3, {META: b"meta", b"J1": b"\x00\xff"})
        assert store.load(B) is None

    def test_what_a_session_is_can_be_seen_without_owning_it(self, store: Store) -> None:
        store.commit([create(A, 7, 3, M=b"meta", J1=b"x"), create(B, 1, 0), create(C, 1, 0, M=b"over")])
        store.commit([end(C, 1, 0)])
        assert [store.meta(name) for name in (A, B, C, "nobody")] == [b"meta", None, None, None]
        assert store.load(A) == Held(A, 7, 3, {META: b"meta", b"J1": b"x"})

    def test_a_session_that_exists_is_not_created_again(self, store: Store) -> None:
        store.commit([create(A, 7, 3, M=b"old")])
        assert store.commit([create(A, 8, 0, M=b"new")]) == {A: Refusal.EXISTS}
        assert store.load(A) == Held(A, 7, 3, {META: b"old"})

    def test_items_are_added_and_replaced(self, store: Store) -> None:
        store.commit([create(A, 1, 0, M=b"m", J0=b"x")])
        assert store.commit([append(A, 1, 5, J0=b"y", J5=b"z")]) == {}
        assert store.load(A) == Held(A, 1, 5, {b"M": b"m", b"J0": b"y", b"J5": b"z"})

    def test_keys_are_deleted_before_others_are_put(self, store: Store) -> None:
        store.commit([create(A, 1, 0, J0=b"old", J1=b"gone", J2=b"stays")])
        change = Change(A, 1, 2, {b"J0": b"new"}, [b"J0", b"J1", b"never there"])
        assert store.commit([change]) == {}
        assert store.load(A) == Held(A, 1, 2, {b"J0": b"new", b"J2": b"stays"})

    def test_an_empty_item_and_an_empty_session_are_kept(self, store: Store) -> None:
        store.commit([create(A, 1, 0, J=b""), create(B, 2, 0)])
        assert store.load(A) == Held(A, 1, 0, {b"J": b""})
        assert store.load(B) == Held(B, 2, 0, {})

    def test_keys_and_names_may_be_any_bytes_and_text(self, store: Store) -> None:
        name = "naïve 🌊: 'quoted' \"twice\" * [x]"
        items = {bytes([byte]): bytes(range(256)) for byte in range(256)}
        store.commit([Change(name, 2**48 - 1, 2**53, items, create=True)])
        assert store.load(name) == Held(name, 2**48 - 1, 2**53, items)

    def test_epochs_and_positions_are_exact_where_floats_are_not(self, store: Store) -> None:
        store.commit([create(A, 2**62 + 1, 2**62 + 3)])
        assert store.commit([append(A, 2**62, 1)]) == {A: Refusal.FENCED}
        assert store.claim(A) == Held(A, 2**62 + 2, 2**62 + 3, {})

    def test_a_claim_fences_what_came_before_it(self, store: Store) -> None:
        store.commit([create(A, 7, 3, M=b"m")])
        assert store.claim(A) == Held(A, 8, 3, {b"M": b"m"})
        assert store.commit([append(A, 7, 4, J3=b"late")]) == {A: Refusal.FENCED}
        assert store.commit([end(A, 7, 4)]) == {A: Refusal.FENCED}
        assert store.commit([append(A, 8, 4, J3=b"good")]) == {}
        assert store.load(A) == Held(A, 8, 4, {b"M": b"m", b"J3": b"good"})
        assert store.claim(B) is None

    def test_what_is_not_there_is_fenced(self, store: Store) -> None:
        assert store.commit([append(A, 1, 1), end(B, 1, 1)]) == {A: Refusal.FENCED, B: Refusal.FENCED}
        assert store.claim(A) is None
        assert store.claim(B) is None

    def test_of_an_ended_session_only_the_end_is_kept(self, store: Store) -> None:
        store.commit([create(A, 7, 3, M=b"m", J0=b"x")])
        assert store.commit([end(A, 7, 4, "expired")]) == {}
        assert store.load(A) is None
        assert store.claim(A) == Held(A, 7, 4, {}, "expired")
        assert store.commit([append(A, 7, 5)]) == {A: Refusal.FENCED}
        assert store.commit([append(A, 8, 5)]) == {A: Refusal.FENCED}

    def test_an_ended_session_makes_room_for_a_new_one_of_its_name(self, store: Store) -> None:
        store.commit([create(A, 7, 3, M=b"old", J0=b"x")])
        store.commit([end(A, 7, 4)])
        assert store.commit([create(A, 9, 0, M=b"new")]) == {}
        assert store.load(A) == Held(A, 9, 0, {b"M": b"new"})
        assert store.commit([end(A, 9, 1, "lost")]) == {}
        assert store.claim(A) == Held(A, 9, 1, {}, "lost")

    def test_a_session_may_end_in_the_commit_that_creates_it(self, store: Store) -> None:
        change = Change(A, 7, 4, {b"M": b"m"}, create=True, ended="closed")
        assert store.commit([change]) == {}
        assert store.commit([change]) == {}
        assert store.claim(A) == Held(A, 7, 4, {}, "closed")

    def test_a_refused_change_does_not_hinder_the_others(self, store: Store) -> None:
        store.commit([create(A, 1, 0, M=b"a"), create(B, 1, 0, M=b"b")])
        changes = [
            create(A, 2, 0, M=b"x", J=b"x"),
            append(B, 1, 1, J0=b"good"),
            Change(C, 1, 1, {b"J": b"x"}, [b"J", b"K"]),
            create("d", 1, 0, M=b"d"),
            Change(B + A, 3, 1, {b"J": b"x"}, [b"M"], ended="closed"),
            create("e", 1, 2, M=b"e"),
        ]
        assert store.commit(changes) == {A: Refusal.EXISTS, C: Refusal.FENCED, B + A: Refusal.FENCED}
        assert store.load(A) == Held(A, 1, 0, {b"M": b"a"})
        assert store.load(B) == Held(B, 1, 1, {b"M": b"b", b"J0": b"good"})
        assert store.load(C) is None
        assert store.load("d") == Held("d", 1, 0, {b"M": b"d"})
        assert store.load("e") == Held("e", 1, 2, {b"M": b"e"})

    def test_a_commit_may_be_repeated(self, store: Store) -> None:
        store.commit([create(A, 1, 0, M=b"a", J0=b"x"), create(B, 1, 0), create(C, 1, 0)])
        changes = [
            create("new", 4, 1, M=b"n"),
            Change(A, 1, 2, {b"J2": b"y", b"J3": b"z"}, [b"J0", b"J2"]),
            end(B, 1, 1),
            append(C, 2, 1),
        ]
        for _ in range(3):
            assert store.commit(changes) == {C: Refusal.FENCED}
            assert store.load("new") == Held("new", 4, 1, {b"M": b"n"})
            assert store.load(A) == Held(A, 1, 2, {b"M": b"a", b"J2": b"y", b"J3": b"z"})
            assert store.claim(B) == Held(B, 1, 1, {}, "closed")

    def test_a_repeated_creation_may_bring_more(self, store: Store) -> None:
        store.commit([create(A, 4, 1, M=b"n", J0=b"x")])
        assert store.commit([Change(A, 4, 2, {b"M": b"n", b"J1": b"y"}, [b"J0"], create=True)]) == {}
        assert store.load(A) == Held(A, 4, 2, {b"M": b"n", b"J1": b"y"})

    def test_a_commit_takes_many_sessions(self, store: Store) -> None:
        names = [f"s{number}" for number in range(2_500)]
        assert store.commit([create(name, 1, 0, M=name.encode()) for name in names]) == {}
        changes = [append(name, 1 + (index % 5 == 0), 1, J0=b"x") for index, name in enumerate(names)]
        assert store.commit(changes) == dict.fromkeys(names[::5], Refusal.FENCED)
        for name in names[:10] + names[-10:]:
            expected = {b"M": name.encode()} | ({} if name in names[::5] else {b"J0": b"x"})
            assert store.load(name) == Held(name, 1, int(name not in names[::5]), expected)

    def test_a_change_takes_many_items_and_large_ones(self, store: Store) -> None:
        items = {f"J{number:05}".encode(): bytes([number % 256]) * 10 for number in range(9_000)}
        large = {b"S": bytes(3 << 20)}
        store.commit([Change(A, 1, 0, items, create=True), Change(B, 1, 0, large, create=True)])
        assert store.load(A) == Held(A, 1, 0, items)
        assert store.load(B) == Held(B, 1, 0, large)
        kept = b"J04321"
        store.commit([Change(A, 1, 1, {}, [key for key in items if key != kept])])
        assert store.load(A) == Held(A, 1, 1, {kept: items[kept]})

    def test_a_commit_of_nothing_is_none(self, store: Store) -> None:
        assert store.commit([]) == {}

    def test_a_successor_finds_all(self, place: Place) -> None:
        store = place.open()
        store.commit([create(A, 7, 3, M=b"m", J0=b"x"), create(B, 1, 0)])
        store.commit([end(B, 1, 2, "lost")])
        store.close()
        store = place.open()
        store.beat()
        assert store.claim(A) == Held(A, 8, 3, {b"M": b"m", b"J0": b"x"})
        assert store.claim(B) == Held(B, 1, 2, {}, "lost")

    def test_what_a_killed_writer_was_told_is_there(self, place: Place) -> None:
        command = [sys.executable, str(Path(store_writer.__file__)), place.url, place.server_id]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            try:
                assert writer.stdout is not None
                told = [int(writer.stdout.readline()) for _ in range(COMMITS)]
            finally:
                writer.kill()
            rest, _ = writer.communicate(timeout=WRITER_SECONDS)
        acknowledged = max(told + [int(line) for line in rest.splitlines(keepends=True) if line[-1] == "\n"])
        assert acknowledged >= COMMITS
        store = place.open()
        for name in store_writer.SESSIONS:
            held = store.claim(name)
            assert held is not None
            assert acknowledged <= held.position <= acknowledged + 1
            value = str(held.position).encode()
            assert held == Held(
                name,
                store_writer.EPOCH + 1,
                held.position,
                {store_writer.FIRST: value, store_writer.LAST: value},
            )


NAMES = st.sampled_from([A, B, C, "d"])
EPOCHS = st.integers(1, 4)
KEYS = st.sampled_from([META, b"J0", b"J1", b"S\x00\xff"])
CHANGES = st.builds(
    Change,
    session_id=NAMES,
    epoch=EPOCHS,
    position=st.integers(0, 2**40),
    put=st.dictionaries(KEYS, st.binary(max_size=8), max_size=4),
    delete=st.lists(KEYS, max_size=3),
    create=st.booleans(),
    ended=st.sampled_from(["", "", "", "closed", "expired"]),
)
COMMITTED = st.lists(CHANGES, max_size=4, unique_by=lambda change: change.session_id)


class StoreMachine(RuleBasedStateMachine):
    """A store beside a dictionary. `opens` opens the same place again, and an empty one for each machine."""

    def __init__(self, opens: Callable[[], Callable[[], Store]]) -> None:
        super().__init__()
        self.open = opens()
        self.store = self.open()
        self.model: dict[str, Held] = {}
        self.last: list[Change] = []

    @initialize(names=st.sets(NAMES))
    def begin(self, names: set[str]) -> None:
        self._commit([create(name, 1) for name in sorted(names)])

    @rule(changes=COMMITTED)
    def commit(self, changes: list[Change]) -> None:
        self._commit(changes)

    @rule(changes=COMMITTED, kind=st.sampled_from(["go on", "end"]))
    def commit_of_owner(self, changes: list[Change], kind: str) -> None:
        """As `commit`, by those who are not fenced."""
        for change in changes:
            change.create = False
            change.ended = "closed" if kind == "end" else ""
            if change.session_id in self.model:
                change.epoch = self.model[change.session_id].epoch
        self._commit(changes)

    @rule()
    def commit_again(self) -> None:
        self._commit(self.last)

    @rule(name=NAMES)
    def claim(self, name: str) -> None:
        held = self.model.get(name)
        if held is not None and not held.ended:
            self.model[name] = held._replace(epoch=held.epoch + 1)
        assert self.store.claim(name) == self.model.get(name)
        self.last = []

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @invariant()
    def same(self) -> None:
        for name in (A, B, C, "d"):
            held = self.model.get(name)
            assert self.store.load(name) == (None if held is None or held.ended else held)

    def teardown(self) -> None:
        self.store.close()

    def _commit(self, changes: list[Change]) -> None:
        expected = {change.session_id: self._apply(change) for change in changes}
        refused = {name: refusal for name, refusal in expected.items() if refusal is not None}
        assert self.store.commit(changes) == refused
        self.last = changes

    def _apply(self, change: Change) -> Refusal | None:
        there = self.model.get(change.session_id)
        items: Mapping[bytes, bytes] = {}
        if there is not None and there.epoch == change.epoch:
            if there.ended:
                return None if change.ended else Refusal.FENCED
            items = there.items
        elif there is not None and not there.ended:
            return Refusal.EXISTS if change.create else Refusal.FENCED
        elif not change.create:
            return Refusal.FENCED
        kept = {key: value for key, value in items.items() if key not in change.delete}
        self.model[change.session_id] = Held(
            change.session_id,
            change.epoch,
            change.position,
            {} if change.ended else kept | dict(change.put),
            change.ended,
        )
        return None
