"""Calls that a drain cuts off, each in a server of this process with one method."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from keepgate.errors import ModelNotFoundError
from keepgate.rpc.guard import CallGuard
from keepgate.telemetry.calls import Calls
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc
from support.wire import DEADLINE, take_apart

Behaviour = Callable[[CallGuard, Any], Awaitable[None]]


@asynccontextmanager
async def served(guard: CallGuard, behaviour: Behaviour) -> AsyncIterator[Any]:
    """A stub of a server whose Generate behaves so."""

    class Servicer(sequences_pb2_grpc.SequencesServicer):
        async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:  # noqa: N802
            await behaviour(guard, context)

    server = grpc.aio.server()
    sequences_pb2_grpc.add_SequencesServicer_to_server(  # type: ignore[no-untyped-call]
        Servicer(), guard.around(server)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield sequences_pb2_grpc.SequencesStub(channel)  # type: ignore[no-untyped-call]
        await asyncio.wait_for(guard.wait_idle(), DEADLINE)
    finally:
        await server.stop(None)


def end_of(behaviour: Behaviour) -> tuple[list[int], str, str]:
    """The positions that a client reads from a call of this behaviour, and the error that it then gets; and
    the code that the server counts."""
    calls = Calls()
    guard = CallGuard(1, calls)

    async def main() -> tuple[list[int], str]:
        positions: list[int] = []
        async with served(guard, behaviour) as stub:
            with pytest.raises(grpc.RpcError) as caught:
                await read(stub.Generate(pb.GenerateRequest(), timeout=DEADLINE), positions)
        status = rpc_status.from_call(caught.value)
        assert status is not None, f"no details: {caught.value}"
        return positions, take_apart(status).reason

    positions, reason = asyncio.run(main())
    (code,) = calls.methods["/keepgate.v1.Sequences/Generate"].codes
    return positions, reason, code.name


async def read(call: Any, positions: list[int]) -> None:
    async for chunk in call:
        positions.append(chunk.position)  # noqa: PERF401 - they are to stay if the call fails


def cut_next(guard: CallGuard) -> None:
    """Cut off the calls when what is awaited next is under way."""
    asyncio.get_running_loop().call_soon(guard.cut)


def test_a_call_at_work_is_cut_off() -> None:
    async def work(guard: CallGuard, context: Any) -> None:
        await context.write(pb.GenerateResponse(position=1))
        cut_next(guard)
        await asyncio.sleep(DEADLINE)

    assert end_of(work) == ([1], "DRAINING", "UNAVAILABLE")


@pytest.mark.parametrize("before", [0, 1])
def test_a_call_that_writes_is_cut_off(before: int) -> None:
    """Its first answer carries the headers, and they go once."""

    async def answer(guard: CallGuard, context: Any) -> None:
        for position in range(before):
            await context.write(pb.GenerateResponse(position=position))
        cut_next(guard)
        await context.write(pb.GenerateResponse(position=before))
        await asyncio.sleep(DEADLINE)

    assert end_of(answer) == (list(range(before + 1)), "DRAINING", "UNAVAILABLE")


def test_a_call_that_tells_its_end_is_not_cut_off() -> None:
    async def fail(guard: CallGuard, context: Any) -> None:
        cut_next(guard)
        raise ModelNotFoundError("none", "", "")

    assert end_of(fail) == ([], "MODEL_NOT_FOUND", "NOT_FOUND")


def test_an_answer_that_fails_when_nobody_waits_for_it() -> None:
    """As when a client leaves. Nothing is said of it: it is no fault."""
    said: list[dict[str, Any]] = []

    async def answer(guard: CallGuard, context: Any) -> None:
        begun.set()
        try:
            await asyncio.sleep(DEADLINE)
        finally:  # the client has left
            writer = asyncio.ensure_future(context.write(pb.GenerateResponse()))
            await asyncio.sleep(0)
            writer.cancel()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))
        async with served(CallGuard(1), answer) as stub:
            call = stub.Generate(pb.GenerateRequest(), timeout=DEADLINE)
            await asyncio.wait_for(begun.wait(), DEADLINE)
            call.cancel()
        gc.collect()

    begun = asyncio.Event()
    asyncio.run(main())
    assert said == []
