"""The uninterrupted run: all that a load asked, asked again of a server that nothing happens to."""

from __future__ import annotations

import asyncio

import grpc
from faults.calls import Connection, perform
from faults.checker import Expected, Run
from faults.load import Load
from faults.script import MODEL
from keepgate_protos.v1 import sequences_pb2 as pb

TIMEOUT = 60.0
CONNECTIONS = 4


async def uninterrupted(address: str, load: Load) -> Run:
    """What a server without a store answers to the requests that the load made."""
    run: dict[tuple[str, int], Expected] = {}
    connections = [Connection(address) for _ in range(CONNECTIONS)]
    try:
        async with asyncio.TaskGroup() as group:
            for number, (session, count) in enumerate(load.history.reached().items()):
                connection = connections[number % CONNECTIONS]
                group.create_task(_session(connection, load, session, count, run))
    finally:
        for connection in connections:
            await connection.close()
    return run


async def _session(
    connection: Connection, load: Load, session: str, count: int, run: dict[tuple[str, int], Expected]
) -> None:
    request = pb.OpenRequest(model=MODEL, version="1", session_id=session, durability=pb.DURABILITY_NONE)
    await connection.stub.Open(request, timeout=TIMEOUT, wait_for_ready=True)
    try:
        await _requests(connection, load, session, count, run)
    finally:
        await connection.stub.Close(pb.CloseRequest(session_id=session), timeout=TIMEOUT)


async def _requests(
    connection: Connection, load: Load, session: str, count: int, run: dict[tuple[str, int], Expected]
) -> None:
    for index in range(count):
        planned = load.planned(session, index)
        try:
            answer = await perform(connection.stub, planned, TIMEOUT)
        except grpc.RpcError as error:
            raise RuntimeError(f"the uninterrupted run was interrupted at {planned.asked}") from error
        if answer.replayed or answer.position != planned.asked.end:
            raise RuntimeError(f"{planned.asked} was answered with position {answer.position}")
        run[session, index] = Expected(answer.position, answer.bits, answer.tokens)
