"""What the operator tells the process."""

from __future__ import annotations

import asyncio
import signal

import structlog

from keepgate.errors import RequestError
from keepgate.security.security import Security
from keepgate.swap import Swap

log = structlog.get_logger(__name__)


class Signals:
    """The first SIGTERM or SIGINT since this was made, and the second. SIGHUP reloads the repository,
    tokens and certificates."""

    def __init__(self, swap: Swap, security: Security) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._swap = swap
        self._security = security
        self._reloads: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _came(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _reload(self) -> None:
        task = asyncio.ensure_future(self._reloaded())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reloaded(self) -> None:
        try:
            await self._security.reload()
            changes = await self._swap.reload()
        except RequestError as error:
            log.error("not reloaded", error=str(error))
        except Exception as error:  # a bug: nobody else hears of it
            log.error("not reloaded", exc_info=error)
        else:
            log.info("reloaded", loaded=len(changes.loaded), retired=len(changes.retired))
