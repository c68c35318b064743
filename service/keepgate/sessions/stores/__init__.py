"""Where sessions outlive the process."""

from __future__ import annotations

from pathlib import Path

from keepgate.errors import StoreError
from keepgate.sessions.stores.base import Store
from keepgate.sessions.stores.sqlite import SqliteStore

LEASE_SECONDS = 5.0


def open_store(url: str, *, server_id: str, lease_seconds: float = LEASE_SECONDS) -> Store:
    """The store that a URL names: sqlite:PATH, sqlite:///absolute/path, redis://... or rediss://...

    server_id, lease_seconds: as for `RedisStore`; a SQLite file needs neither. Raises StoreError if the store
    cannot be used, or the URL is none of these.
    """
    scheme, colon, rest = url.partition(":")
    if scheme in ("redis", "rediss") and rest.startswith("//"):
        try:
            # It needs a package that a server without Redis does not have.
            from keepgate.sessions.stores.redis import RedisStore  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise StoreError(
                f"a store on Redis needs the Python package {error.name}: pip install 'keepgate[redis]'"
            ) from error
        return RedisStore(url, server_id=server_id, lease_seconds=lease_seconds)
    path = rest.removeprefix("//") if rest.startswith("///") else rest
    if scheme != "sqlite" or not path or path.startswith("//"):
        got = f"{scheme}:..." if colon else "no URL"  # not all of it: it may hold a password
        raise StoreError(f"store: got {got}, expected sqlite:PATH, redis://HOST:PORT or rediss://HOST:PORT")
    return SqliteStore(Path(path))


def spill_store() -> Store:
    """For sessions that need not outlive the process, while they are not in memory. Raises StoreError."""
    return SqliteStore(None, synced=False)
