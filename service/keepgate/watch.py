"""Reloads when the repository changes, without being told.

A look takes names, sizes and times of change of all model files, and reads none. Where they differ from what
was acted on, the files that differ are hashed; once two looks in a row find the same, the repository is
reloaded. So a file that is still being copied is not loaded, and one that was renamed into place is, a look
later. What is refused is told once, not at every look.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from keepgate.errors import DrainingError, KeepgateError, RequestError
from keepgate.models.format import Stamp
from keepgate.models.registry import FILE_NAME, folders_of
from keepgate.swap import Swap
from keepgate.threads import in_thread

CHUNK = 1 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """stamps: None for what cannot be read or is not there. digests: of files that have changed."""

    stamps: dict[str, Stamp | None] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)


def look(directory: Path, before: Look, max_bytes: int) -> Look:
    """What a repository holds. Files that are as they were `before`, or too large to load, are not read."""
    stamps: dict[str, Stamp | None] = {}
    digests = {}
    try:
        faults: list[KeepgateError] = []
        paths = [folder / FILE_NAME for _, _, folder in folders_of(directory, faults)]
    except KeepgateError as error:
        return Look({str(error): None})
    stamps.update((str(fault), None) for fault in faults)
    for path in paths:
        name = str(path)
        try:
            stamps[name] = stamp = Stamp.of(path.stat())
            if before.stamps.get(name) != stamp and stamp.size <= max_bytes:
                digests[name] = _digest(path)
        except OSError:  # gone meanwhile, or not readable: the reload says so
            stamps[name] = None
    return Look(stamps, digests)


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


class Watch:
    """Looks every `seconds`. What was changed while the server started is found by the first looks."""

    def __init__(self, swap: Swap, directory: Path, *, seconds: float, max_bytes: int) -> None:
        self._swap = swap
        self._directory = directory
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._acted = Look()
        self._last: Look | None = None

    async def run(self) -> None:
        """Until the server drains, or the task is cancelled."""
        log.info("watching", models=str(self._directory), seconds=self._seconds)
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.look()
            except DrainingError:
                return
            except RequestError:  # the repository cannot be read; the reload has logged it
                continue
            except Exception as error:  # a bug: nobody else hears of it, and the next look may fare better
                log.error("not reloaded", exc_info=error)

    async def look(self) -> None:
        """Look once, and reload if two looks in a row have found the same change. Raises as `Swap.reload`."""
        found = await in_thread(lambda: look(self._directory, self._acted, self._max_bytes))
        if found.stamps == self._acted.stamps:
            self._last = None
            return
        if found != self._last:
            self._last = found
            return
        self._acted, self._last = found, None  # also if it is refused: once is enough
        changes = await self._swap.reload(again=False)
        if changes.loaded or changes.retired:
            log.info("reloaded", loaded=len(changes.loaded), retired=len(changes.retired))
