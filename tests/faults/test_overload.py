"""More than a server can take: it says so at once, its memory stays bounded, and it serves the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
from faults.calls import Connection, Failure, failure
from faults.conftest import Length
from faults.fleet import Seat
from faults.script import MODEL
from keepgate_protos.v1 import sequences_pb2 as pb
from support.proxy import Proxy

MIB = 1 << 20
MOST_GROWTH = 96 * MIB
"""What the server may grow by under a flood: connections, calls and messages in flight, and what the
allocator keeps of them."""
DEADLINE = 60.0
TOKENS = pb.Inputs(tokens=pb.Tokens(ids=list(range(16))))
ALL_LOGITS = pb.Outputs(logits=True, hidden=True, state=True, top_k=20)


def resident_bytes(seat: Seat) -> int:
    status = Path(f"/proc/{seat.server.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class Watch:
    """The server's memory, looked at all the time."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.before = resident_bytes(seat)
        self.most = self.before

    @property
    def growth(self) -> int:
        return self.most - self.before

    async def during(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(asyncio.wait_for(work, 4 * DEADLINE))
        while not task.done():
            self.most = max(self.most, resident_bytes(self.seat))
            await asyncio.wait([task], timeout=0.05)
        await task

    def check(self, title: str) -> None:
        print(f"\n{title}: grew by {self.growth / MIB:.1f} MiB from {self.before / MIB:.1f} MiB")
        assert self.growth < MOST_GROWTH


async def call(stub_method: Any, request: Any) -> Failure | None:
    """None if the call succeeds."""
    try:
        await stub_method(request, timeout=DEADLINE)
    except grpc.RpcError as error:
        return failure(error)
    return None


def check_refusals(refusals: list[Failure], reason: str) -> None:
    """All say when to come again."""
    assert {(told.reason, told.code) for told in refusals} == {(reason, "RESOURCE_EXHAUSTED")}
    assert all(told.retry_after for told in refusals)


async def opened(connection: Connection, name: str) -> str:
    await connection.stub.Open(pb.OpenRequest(model=MODEL, version="1", session_id=name), timeout=DEADLINE)
    return name


async def check_serves(connection: Connection, name: str) -> None:
    """A new session can be opened, stepped and closed."""
    await opened(connection, name)
    reply = await connection.stub.Step(pb.StepRequest(session_id=name, inputs=TOKENS), timeout=DEADLINE)
    assert reply.position == 16
    await connection.stub.Close(pb.CloseRequest(session_id=name), timeout=DEADLINE)


def run_with(seat: Seat, test: Callable[[Connection, Watch], Coroutine[Any, Any, None]]) -> None:
    """Run a test on a server of its own that is well before and after."""

    async def run() -> None:
        await seat.start()
        connection = Connection(seat.address)
        try:
            for number in range(50):
                await check_serves(connection, f"before-{number}")
            await test(connection, Watch(seat))
            await check_serves(connection, "after")
        finally:
            await connection.close()
        assert await seat.stop() == 0

    asyncio.run(run())


def test_too_many_steps(seat: Callable[..., Seat], length: Length) -> None:
    async def test(connection: Connection, watch: Watch) -> None:
        names = [await opened(connection, f"s{number}") for number in range(256)]
        heard: list[Failure | None] = []

        async def flood() -> None:
            requests = [pb.StepRequest(session_id=name, inputs=TOKENS) for name in names]
            for _ in range(length.rounds):
                heard.extend(await asyncio.gather(*(call(connection.stub.Step, r) for r in requests)))

        await watch.during(flood())
        refusals = [told for told in heard if told is not None]
        print(f"{len(heard)} steps of 16 inputs, {len(refusals)} refused")
        assert len(refusals) < len(heard)
        check_refusals(refusals, "STEPS_EXHAUSTED")
        watch.check("too many steps")

    run_with(seat(max_pending_steps=16, max_inputs_per_request=16), test)


def test_too_many_sessions(seat: Callable[..., Seat]) -> None:
    async def test(connection: Connection, watch: Watch) -> None:
        heard: list[Failure | None] = []

        async def flood() -> None:
            for turn in range(10):
                requests = [
                    pb.OpenRequest(model=MODEL, version="1", session_id=f"s{turn}-{n}") for n in range(100)
                ]
                heard.extend(await asyncio.gather(*(call(connection.stub.Open, r) for r in requests)))

        await watch.during(flood())
        check_refusals([told for told in heard if told is not None], "SESSIONS_EXHAUSTED")
        assert heard.count(None) == 200
        watch.check("too many sessions")
        for number in range(100):
            await connection.stub.Close(pb.CloseRequest(session_id=f"s0-{number}"), timeout=DEADLINE)

    run_with(seat(max_sessions=200), test)


def numbered(name: str, count: int, inputs: pb.Inputs = TOKENS) -> list[pb.StreamRequest]:
    step = pb.StepRequest(session_id=name, inputs=inputs, outputs=ALL_LOGITS)
    return [pb.StreamRequest(request_id=n, step=step) for n in range(count)]


def test_streams_opened_and_cancelled(seat: Callable[..., Seat], length: Length) -> None:
    """Rapid resets: each stream sends some steps and is cancelled before it is answered, or just after."""

    async def test(connection: Connection, watch: Watch) -> None:
        names = [await opened(connection, f"s{number}") for number in range(32)]

        async def reset(name: str, turn: int) -> None:
            stream = connection.stub.Stream(timeout=DEADLINE)
            for request in numbered(name, 4):
                await stream.write(request)
            if turn % 3 == 0:
                await stream.read()
            elif turn % 3 == 1:
                await asyncio.sleep(0)
            stream.cancel()

        async def flood() -> None:
            for turn in range(10 * length.rounds):
                await asyncio.gather(*(reset(name, turn) for name in names))

        await watch.during(flood())
        watch.check(f"{320 * length.rounds} streams cancelled")
        for name in names:  # no stream owns it any more
            answers = [answer async for answer in connection.stub.Stream(_each(numbered(name, 1)))]
            assert answers[0].WhichOneof("result") == "step", answers

    run_with(seat(), test)


async def _each(requests: list[pb.StreamRequest]) -> AsyncIterator[pb.StreamRequest]:
    for request in requests:
        yield request


def test_readers_that_do_not_read(seat: Callable[..., Seat]) -> None:
    """Streams that send and send, and read nothing: the server stops reading them."""

    async def test(connection: Connection, watch: Watch) -> None:
        written: Counter[str] = Counter()
        slow = [Connection(connection.address) for _ in range(4)]
        most = 20_000  # 20 MB a stream, which no window of HTTP/2 takes
        long = pb.Inputs(tokens=pb.Tokens(ids=[1] * 1_000))

        async def send(one: Connection, name: str) -> None:
            await opened(one, name)
            stream = one.stub.Stream()
            for request in numbered(name, most, long):
                try:
                    await asyncio.wait_for(stream.write(request), 3.0)
                except TimeoutError:  # nobody takes it
                    break
                written[name] += 1
            await check_serves(connection, f"beside-{name}")
            stream.cancel()

        async def flood() -> None:
            names = [f"slow-{number}" for number in range(len(slow))]
            await asyncio.gather(*(send(one, name) for one, name in zip(slow, names, strict=True)))

        try:
            await watch.during(flood())
        finally:
            for one in slow:
                await one.close()
        print(f"steps written to readers that do not read: {dict(written)}")
        assert 0 < max(written.values()) < most
        watch.check("slow readers")

    run_with(seat(), test)


def test_clients_that_vanish(seat: Callable[..., Seat], length: Length) -> None:
    """Connections that break in the middle of streams, or from which nothing is heard any more."""

    async def test(connection: Connection, watch: Watch) -> None:
        names = [await opened(connection, f"s{number}") for number in range(16)]

        async def vanish(turn: int) -> None:
            proxy = Proxy(connection.address)
            gone = [Connection(proxy.address) for _ in names]
            try:
                streams = [one.stub.Stream() for one in gone]
                for stream, name in zip(streams, names, strict=True):
                    for request in numbered(name, 8):
                        await stream.write(request)
                    await stream.read()
                if turn % 2:
                    await asyncio.to_thread(proxy.swallow_answers)
                    await asyncio.sleep(0.2)
                await asyncio.to_thread(proxy.refuse)
                await asyncio.to_thread(proxy.reset)
            finally:
                for one in gone:
                    await one.close()
                await asyncio.to_thread(proxy.__exit__, None, None, None)
            for name in names:
                await until_free(connection, name)

        async def flood() -> None:
            for turn in range(length.rounds):
                await vanish(turn)

        await watch.during(flood())
        watch.check(f"{16 * length.rounds} clients that vanished")

    run_with(seat(), test)


async def until_free(connection: Connection, name: str) -> None:
    """Return once the session belongs to no stream. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE):
        while True:
            stream = connection.stub.Stream(_each(numbered(name, 1)))
            answers = [answer async for answer in stream]
            if answers[0].WhichOneof("result") == "step":
                return
            assert "SESSION_IN_USE" in str(answers[0].error), answers[0].error
            await asyncio.sleep(0.1)
