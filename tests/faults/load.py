"""Clients that work through their scripts whatever happens, and write down what they see.

Every session has one request in flight and sends it again, with the same position, till it is answered. Now
and then one that was answered is sent once more.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from faults.calls import Answer, Connection, CutOffError, Failure, failure, perform
from faults.history import Begun, Ended, History, Unanswered
from faults.script import MODEL, Planned, Script
from keepgate_protos.v1 import sequences_pb2 as pb

PATIENCE = 300.0
"""Seconds after which a request counts as never answered."""
PAUSE = 0.1
"""Seconds before a call that failed is made again, unless the server asks for more."""
LONGEST_PAUSE = 1.0
MOVED = "SESSION_MOVED"
LOOK_BACK = 4
"""How many requests back one is asked for again, at most."""


@dataclass(frozen=True)
class Shape:
    """sessions: how many. seed: of their scripts. durability: what they are opened with.

    again: share of the requests after which an earlier one is sent once more. idle: seconds between a
    session's requests, at most. timeout: seconds of one call. wander: share of the requests before which a
    session turns to another server for no reason.
    """

    sessions: int = 64
    seed: int = 1
    durability: pb.Durability = pb.DURABILITY_UNSPECIFIED
    again: float = 0.05
    idle: float = 0.05
    timeout: float = 10.0
    wander: float = 0.0
    name: str = "s"


class Load:
    """addresses: where the servers are. A session moves on to the next one when the one it uses fails."""

    def __init__(self, addresses: Sequence[str], shape: Shape, history: History) -> None:
        self.history = history
        self.shape = shape
        self.scripts = {
            name: Script(name, shape.seed)
            for name in (f"{shape.name}{number:03}" for number in range(shape.sessions))
        }
        self.closings: dict[str, int] = {}
        self._addresses = addresses
        self._connections: list[Connection] = []
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def answers(self) -> int:
        """Acknowledged up to now."""
        return sum(len(events) for events in self.history.events.values())

    async def start(self) -> None:
        """Open all sessions and begin. Raises RuntimeError if one cannot be opened."""
        self._connections = [Connection(address) for address in self._addresses]
        clients = [
            _Client(self, script, self._connections, number)
            for number, script in enumerate(self.scripts.values())
        ]
        await asyncio.gather(*(client.open() for client in clients))
        self._tasks = [asyncio.ensure_future(client.run(self._stopping)) for client in clients]

    async def stop(self) -> None:
        """Have what is in flight answered, ask each session for its whole state, and end."""
        self._stopping.set()
        try:
            await asyncio.wait_for(asyncio.gather(*self._tasks), 4 * PATIENCE)
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """End at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            await connection.close()
        self._connections = []

    def planned(self, session: str, index: int) -> Planned:
        """What the session was asked, or will be."""
        script = self.scripts[session]
        return script.closing(index) if self.closings.get(session) == index else script.at(index)


class _Client:
    """One session's client."""

    def __init__(self, load: Load, script: Script, connections: list[Connection], number: int) -> None:
        self._load = load
        self._shape = load.shape
        self._history = load.history
        self._script = script
        self._session = script.session
        self._connections = connections
        self._at = number
        self._rng = random.Random(f"{load.shape.seed}/{number}")
        self._index = 0  # of the request to send next
        self._furthest = 0  # all before it may have been applied
        self._over = False

    async def open(self) -> None:
        request = pb.OpenRequest(
            model=MODEL, version="1", session_id=self._session, durability=self._shape.durability
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                await self._stub.Open(request, timeout=self._shape.timeout)
            except grpc.RpcError as error:
                told = failure(error)
                if told.reason == "SESSION_EXISTS":  # its answer was lost
                    return
                if told.retry_after is None:
                    raise RuntimeError(f"{self._session} was not opened: {told}") from error
                await self._pause(told)
            else:
                return
        raise RuntimeError(f"{self._session} was not opened in {PATIENCE} s")

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set() and not self._over:
            self._at += self._rng.random() < self._shape.wander
            await self._ask(self._script.at(self._index))
            if self._index and self._rng.random() < self._shape.again:
                back = self._rng.randint(1, min(LOOK_BACK, self._index))
                await self._ask(self._script.at(self._index - back))
            await asyncio.sleep(self._rng.uniform(0, self._shape.idle))
        await self._close()

    async def _close(self) -> None:
        """Ask for the state, and where the server thinks the session is."""
        deadline = time.monotonic() + PATIENCE
        self._load.closings[self._session] = last = self._furthest
        while not self._over and self._index <= last and time.monotonic() < deadline:
            await self._ask(self._load.planned(self._session, self._index))
        while not self._over and time.monotonic() < deadline:
            try:
                reply = await self._stub.Describe(
                    pb.DescribeRequest(session_id=self._session), timeout=self._shape.timeout
                )
            except grpc.RpcError as error:
                await self._pause(failure(error))
            else:
                self._history.add(self._session, Ended(reply.session.position))
                return

    async def _ask(self, planned: Planned) -> None:
        """Send a request till it is answered, and go on after it; or where the server says.

        The session is over if the server says that it is, or says nothing for too long.
        """
        asked = planned.asked
        self._furthest = max(self._furthest, asked.index + 1)
        deadline = time.monotonic() + PATIENCE
        last = "nothing"
        while time.monotonic() < deadline:
            try:
                answer = await perform(self._stub, planned, self._shape.timeout)
            except CutOffError as error:
                self._history.add(self._session, Begun(asked, error.tokens))
                told = failure(error.cause)
            except grpc.RpcError as error:
                told = failure(error)
            else:
                self._answered(planned, answer)
                return
            last = f"{told.reason}: {told.message}"
            if told.retry_after is not None or told.reason == MOVED:
                await self._pause(told)
                continue
            self._refused(planned, told)
            return
        self._history.add(self._session, Unanswered(asked, last))
        self._over = True

    def _answered(self, planned: Planned, answer: Answer) -> None:
        asked = planned.asked
        self._history.answered(asked, answer.position, answer.bits, replayed=answer.replayed)
        self._index = max(self._index, asked.index + 1)

    def _refused(self, planned: Planned, told: Failure) -> None:
        self._history.failures[told.reason] += 1
        self._history.refused(planned.asked, told.reason, told.expected)
        if told.reason == "STEPS_LOST" and told.expected is not None:
            self._index = self._script.across(told.expected)
        else:
            self._over = True

    @property
    def _stub(self) -> Any:
        return self._connections[self._at % len(self._connections)].stub

    async def _pause(self, told: Failure) -> None:
        """Wait as the server asks; if it is gone, or the session, turn to the next server."""
        self._history.failures[told.reason] += 1
        if told.reason != "STORE_UNAVAILABLE":
            self._at += 1
        await asyncio.sleep(min(max(told.retry_after or 0.0, PAUSE), LONGEST_PAUSE))
