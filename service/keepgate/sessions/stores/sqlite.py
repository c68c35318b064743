"""Sessions in a SQLite file that one server owns, or in a private file for as long as the process lives.

The file has a row for each session and one for each of its items. A commit is one transaction, and one fsync
of the write-ahead log. Room that deleted items leave is used again by later ones, so the file stays as large
as it once had to be. The log is written back into the file whenever it has grown to `LOG_PAGES` pages.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keepgate.errors import StoreError
from keepgate.sessions.stores.base import META, Change, Held, Refusal

APPLICATION_ID = 0x4B475354
"""In the file's header, so that no other program's database is taken for sessions: "KGST"."""
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL, position INTEGER NOT NULL
);
CREATE TABLE items (
    session INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (session, key)
) WITHOUT ROWID;
CREATE TABLE ended (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL, position INTEGER NOT NULL,
    how TEXT NOT NULL
);
"""
MOST_ENDED = 65_536
"""Sessions of which it is kept how they ended: the newest."""
LOG_PAGES = 4_096
LOG_BYTES = 4 * LOG_PAGES * 4_096
"""What the log's file is cut back to if one commit made it larger."""
CACHE_KIB = 16_384
IDS_A_QUERY = 256
ROWS_A_QUERY = 1_024

Row = tuple[int, int]
"""A session's number and epoch."""


class _Batch:
    """What one commit does, by statement. From `number` and `grave` on, numbers are free."""

    def __init__(self, number: int, grave: int) -> None:
        self.number = number
        self.grave = grave
        self.forgotten: list[tuple[str]] = []
        self.over: list[tuple[int]] = []
        self.buried: list[tuple[int, str, int, int, str]] = []
        self.opened: list[tuple[int, str, int, int]] = []
        self.moved: list[tuple[int, int]] = []
        self.deleted: list[tuple[int, bytes]] = []
        self.put: list[tuple[int, bytes, bytes]] = []

    def add(self, change: Change, live: Row | None, ended: Row | None) -> Refusal | None:
        """Take a change in, or say why not. live, ended: what the store has of the session."""
        if live is not None:
            number, epoch = live
            if epoch != change.epoch:
                return Refusal.EXISTS if change.create else Refusal.FENCED
            if change.ended:
                self.over.append((number,))
                self._bury(change)
            else:
                self.moved.append((change.position, number))
                self._fill(number, change)
            return None
        if ended is not None and ended[1] == change.epoch:
            return None if change.ended else Refusal.FENCED
        if not change.create:
            return Refusal.FENCED
        if ended is not None:
            self.forgotten.append((change.session_id,))
        if change.ended:
            self._bury(change)
        else:
            self.opened.append((self.number, change.session_id, change.epoch, change.position))
            self._fill(self.number, change)
            self.number += 1
        return None

    def run(self, db: sqlite3.Connection) -> None:
        """Do it, in a transaction of the caller's. Raises sqlite3.Error."""
        db.executemany("DELETE FROM ended WHERE id = ?", self.forgotten)
        db.executemany("DELETE FROM sessions WHERE number = ?", self.over)
        db.executemany("DELETE FROM items WHERE session = ?", self.over)
        db.executemany("INSERT INTO ended VALUES (?, ?, ?, ?, ?)", self.buried)
        db.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?)", self.opened)
        db.executemany("UPDATE sessions SET position = ? WHERE number = ?", self.moved)
        db.executemany("DELETE FROM items WHERE session = ? AND key = ?", self.deleted)
        db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", self.put)

    def _fill(self, number: int, change: Change) -> None:
        self.deleted += [(number, key) for key in change.delete]
        self.put += [(number, key, value) for key, value in change.put.items()]

    def _bury(self, change: Change) -> None:
        self.buried.append((self.grave, change.session_id, change.epoch, change.position, change.ended))
        self.grave += 1


class SqliteStore:
    """path None: a private temporary file, which is gone with the process. synced: a commit outlives the
    machine's power; if not, the process alone. most_ended: as `MOST_ENDED`.

    Raises StoreError if the file cannot be opened, is no store of sessions, or is in use by another server.
    """

    shared = False

    def __init__(self, path: Path | None, *, synced: bool = True, most_ended: int = MOST_ENDED) -> None:
        self._name = "a temporary SQLite file" if path is None else f"SQLite file {path}"
        self._most_ended = most_ended
        try:
            if path is not None:
                _make_private(path)
            # The server opens the store on one thread and uses it on another.
            self._db = sqlite3.connect(
                "" if path is None else path, timeout=0, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        try:
            self._configure(path is not None, synced)
            self._open_schema()
            self._number = self._free_number("sessions")
            self._grave = self._free_number("ended")
        except sqlite3.Error as error:
            self._db.close()
            raise self._error(error) from error
        except StoreError:
            self._db.close()
            raise

    def commit(self, changes: Sequence[Change]) -> Mapping[str, Refusal]:
        refused: dict[str, Refusal] = {}
        with self._transaction():
            names = [change.session_id for change in changes]
            batch = _Batch(self._number, self._grave)
            live = self._find("sessions", names)
            ended = self._find("ended", [name for name in names if name not in live])
            for change in changes:
                name = change.session_id
                refusal = batch.add(change, live.get(name), ended.get(name))
                if refusal is not None:
                    refused[name] = refusal
            batch.run(self._db)
            if batch.buried:
                self._db.execute("DELETE FROM ended WHERE number < ?", (batch.grave - self._most_ended,))
        self._number, self._grave = batch.number, batch.grave
        return refused

    def held(self) -> Iterator[Held]:
        with self._transaction():
            self._db.execute("UPDATE sessions SET epoch = epoch + 1")
        return self._list()

    def load(self, session_id: str) -> Held | None:
        """As `Store.load`. A session that has ended is not there."""
        with self._transaction():
            return self._read(session_id)

    def meta(self, session_id: str) -> bytes | None:
        query = (
            "SELECT value FROM items WHERE session = (SELECT number FROM sessions WHERE id = ?) AND key = ?"
        )
        with self._transaction():
            for (meta,) in self._db.execute(query, (session_id, META)).fetchall():
                return bytes(meta)
        return None

    def claim(self, session_id: str) -> Held | None:
        with self._transaction():
            self._db.execute("UPDATE sessions SET epoch = epoch + 1 WHERE id = ?", (session_id,))
            held = self._read(session_id)
            if held is None:
                query = "SELECT epoch, position, how FROM ended WHERE id = ?"
                for epoch, position, how in self._db.execute(query, (session_id,)):
                    held = Held(session_id, epoch, position, {}, how)
            return held

    def beat(self) -> None:
        """Nothing: no other server can have the file while this one lives."""

    def describe(self) -> str:
        return self._name

    def close(self) -> None:
        try:
            self._db.close()
        except sqlite3.Error as error:
            raise self._error(error) from error

    # --- inside ---

    def _configure(self, lasting: bool, synced: bool) -> None:
        execute = self._db.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA secure_delete = FAST")
        execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if not lasting:
            execute("PRAGMA journal_mode = MEMORY")
            execute("PRAGMA synchronous = OFF")
            return
        (mode,) = execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self._name}: its file system allows no write-ahead log")
        execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")

    def _open_schema(self) -> None:
        """Make the tables in an empty file, or check that they are those of this version."""
        with self._transaction():
            application, version, tables = (
                self._db.execute(query).fetchone()[0]
                for query in (
                    "PRAGMA application_id",
                    "PRAGMA user_version",
                    "SELECT count(*) FROM sqlite_master",
                )
            )
            if not (application or version or tables):
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION_ID:
                raise StoreError(
                    f"{self._name}: got another program's database, expected a store of sessions"
                )
            elif version != SCHEMA_VERSION:
                raise StoreError(f"{self._name}: got schema version {version}, expected {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing of what is done inside. Raises StoreError for sqlite3.Error."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._error(error) from error
        finally:
            with contextlib.suppress(sqlite3.Error):  # the next BEGIN will tell
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _free_number(self, table: str) -> int:
        (largest,) = self._db.execute(f"SELECT max(number) FROM {table}").fetchone()  # noqa: S608 - ours
        return 1 + (largest or 0)

    def _find(self, table: str, names: Sequence[str]) -> dict[str, Row]:
        """Those of the sessions that are in `sessions` or `ended`."""
        found: dict[str, Row] = {}
        for start in range(0, len(names), IDS_A_QUERY):
            some = names[start : start + IDS_A_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT id, number, epoch FROM {table} WHERE id IN ({marks})"  # noqa: S608 - ours
            found.update((name, (number, epoch)) for name, number, epoch in self._db.execute(query, some))
        return found

    def _read(self, session_id: str) -> Held | None:
        query = "SELECT number, epoch, position FROM sessions WHERE id = ?"
        for number, epoch, position in self._db.execute(query, (session_id,)).fetchall():
            items = self._db.execute("SELECT key, value FROM items WHERE session = ?", (number,))
            return Held(session_id, epoch, position, dict(items))
        return None

    def _list(self) -> Iterator[Held]:
        """All sessions, the ended ones first. No query stays open: it would keep the log from being reset."""
        query = "SELECT number, id, epoch, position, how FROM ended WHERE number > ? ORDER BY number LIMIT ?"
        for name, epoch, position, how in self._pages(query):
            yield Held(name, epoch, position, {}, how)
        query = (
            "SELECT number, id, epoch, position, "
            "(SELECT value FROM items WHERE session = number AND key = ?) "
            "FROM sessions WHERE number > ? ORDER BY number LIMIT ?"
        )
        for name, epoch, position, meta in self._pages(query, META):
            yield Held(name, epoch, position, {} if meta is None else {META: meta})

    def _pages(self, query: str, *given: bytes) -> Iterator[tuple[Any, ...]]:
        """Rows after the number that comes first in each."""
        rows: list[tuple[Any, ...]] = [(0,)]
        while rows:
            with self._transaction():
                rows = self._db.execute(query, (*given, rows[-1][0], ROWS_A_QUERY)).fetchall()
            for row in rows:
                yield row[1:]

    def _error(self, error: Exception) -> StoreError:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
            return StoreError(f"{self._name} is in use by another server")
        return StoreError(f"{self._name}: {error}")


def _make_private(path: Path) -> None:
    """Make the file if there is none, for this user alone, and its name as lasting as its contents.

    Raises OSError.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
