"""Loops over a session's generations and streams: what runs, what was left early, and how it is ended.

A loop is a generator that is started and not finished. One that the program no longer refers to was
left for good; one still referred to may be in use, so only what gives the session up ends it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """One loop; the generator enters it when it starts and leaves it when it ends."""

    def __init__(self, loops: set[Loop]) -> None:
        self._loops = loops
        self.generator: Callable[[], Any] = lambda: None
        self.over = asyncio.Event()

    def __enter__(self) -> None:
        self._loops.add(self)

    def __exit__(self, *_: object) -> None:
        self._loops.discard(self)
        self.over.set()


class Loops:
    """The loops of a session of the synchronous client, whose generators end with their last reference."""

    def __init__(self) -> None:
        self._loops: set[Loop] = set()

    def start(self, generated: Callable[[Loop], Generator[T, None, None]]) -> Generator[T, None, None]:
        """What `generated` makes, which runs `with` the loop that it is given."""
        loop = Loop(self._loops)
        generator = generated(loop)
        loop.generator = weakref.ref(generator)
        return generator

    def end(self) -> None:
        """Close the generators, but not one that another thread is in."""
        for loop in list(self._loops):
            generator = loop.generator()
            if generator is not None and not generator.gi_running:
                generator.close()


class AsyncLoops:
    """The loops of a session of the asyncio client.

    `break` leaves an asynchronous generator open. Once nothing refers to it, asyncio closes it in a task
    of its own, for whose end the session's next call has to wait.
    """

    def __init__(self) -> None:
        self._loops: set[Loop] = set()

    def start(self, generated: Callable[[Loop], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """What `generated` makes, which runs `with` the loop that it is given."""
        loop = Loop(self._loops)
        generator = generated(loop)
        loop.generator = weakref.ref(generator)
        return generator

    async def left(self) -> None:
        """Wait until the generators that nothing refers to are closed."""
        for loop in list(self._loops):
            if loop.generator() is None:
                await loop.over.wait()

    async def end(self) -> None:
        """Close the generators, but not one that another task is in."""
        for loop in list(self._loops):
            generator = loop.generator()
            if generator is not None and not generator.ag_running:
                await generator.aclose()
        await self.left()
