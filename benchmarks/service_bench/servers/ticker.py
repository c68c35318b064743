"""Dynamic batching for a server on one asyncio loop: what arrives together is computed together.

The first step submitted in an iteration of the loop schedules a tick for the next one, so an idle server
adds no wait. Shared by all peers, and needs nothing of Keepgate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Batch = tuple[list[int], list[int]]
Answers = tuple[list[int], list[float]]
Step = Callable[[list[int], list[int]], Answers]
"""Slots and tokens to tokens and their log-probabilities; each slot at most once."""

MOST = 1024
"""Steps of one batch."""


class Ticker:
    """in_thread: compute on a thread, while the loop takes the next requests; else on the loop itself."""

    def __init__(self, step: Step, *, in_thread: bool) -> None:
        self._step = step
        self._executor = ThreadPoolExecutor(1) if in_thread else None
        self._waiting: list[tuple[int, int, asyncio.Future[tuple[int, float]]]] = []
        self._scheduled = False

    def submit(self, slot: int, token: int) -> asyncio.Future[tuple[int, float]]:
        """The predicted token and its log-probability, after this token."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[int, float]] = loop.create_future()
        self._waiting.append((slot, token, future))
        self._schedule(loop)
        return future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, futures = self._gather()
        if self._executor is None:
            self._resolve(futures, self._step(*batch))
            self._next(loop)
            return
        task = loop.run_in_executor(self._executor, self._step, *batch)

        def done(answers: asyncio.Future[Answers]) -> None:
            self._resolve(futures, answers.result())
            self._next(loop)

        task.add_done_callback(done)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        if self._waiting:
            self._schedule(loop)

    def _gather(self) -> tuple[Batch, list[asyncio.Future[tuple[int, float]]]]:
        """The first step of each session that waits; others stay for the next tick."""
        slots: dict[int, int] = {}
        futures = []
        left = []
        for entry in self._waiting:
            slot, token, future = entry
            if slot in slots or len(slots) == MOST:
                left.append(entry)
            else:
                slots[slot] = token
                futures.append(future)
        self._waiting = left
        return (list(slots), list(slots.values())), futures

    @staticmethod
    def _resolve(futures: list[asyncio.Future[tuple[int, float]]], answers: Answers) -> None:
        for future, token, log_probability in zip(futures, *answers, strict=True):
            if not future.done():  # its call may be gone
                future.set_result((token, log_probability))
