"""How a stream ends that nobody ends: the server drains, or the stream is as old as a connection may get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keepgate.errors import ConnectionAgedError, DrainingError
from keepgate.sequences import Sequences


@contextmanager
def ending(sequences: Sequences, reader: asyncio.Task[None], end: Callable[[], object]) -> Iterator[None]:
    """Within, `end` is called when it is time to read no more. Afterwards nothing is read."""
    drain = asyncio.ensure_future(sequences.draining.wait())
    drain.add_done_callback(lambda _: end())
    age = sequences.settings.connection_age_seconds
    old = asyncio.get_running_loop().call_later(age, end) if age else None
    try:
        yield
    finally:
        if old is not None:
            old.cancel()
        drain.cancel()
        reader.cancel()


def check_end(sequences: Sequences, reader: asyncio.Task[None]) -> None:
    """When all that was read is answered. Raises DrainingError or ConnectionAgedError if reading was ended,
    and what the reader raised."""
    if reader.cancelled():
        raise DrainingError if sequences.draining.is_set() else ConnectionAgedError
    reader.result()
