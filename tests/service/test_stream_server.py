"""Streams of a server in this process: what they keep, and what a bug does to them."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from keepgate.config import load_settings
from keepgate.keeper import Keeper
from keepgate.models.registry import Registry, load_repository
from keepgate.models.tokenizer import CharacterCodec
from keepgate.rpc.guard import CallGuard
from keepgate.rpc.native import SequencesServicer
from keepgate.sequences import Sequences
from keepgate.sessions.session import Session
from keepgate.sessions.stores import spill_store
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc
from structlog.testing import capture_logs
from support.wire import DEADLINE, step, take_apart


def registry_of(repository: Path) -> Registry:
    return load_repository(repository, max_bytes=1 << 20, slots=64).registry


@asynccontextmanager
async def serve(registry: Registry) -> AsyncIterator[Any]:
    """The stub of a connection to a server of these models."""
    settings = load_settings()
    sequences = Sequences(registry, settings, Keeper(registry, settings, None, spill_store()))
    server = grpc.aio.server()
    sequences_pb2_grpc.add_SequencesServicer_to_server(  # type: ignore[no-untyped-call]
        SequencesServicer(sequences), CallGuard(100).around(server)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield sequences_pb2_grpc.SequencesStub(channel)  # type: ignore[no-untyped-call]
    finally:
        await server.stop(None)
        await sequences.stop()


async def open_session(stub: Any, model: str = "letters") -> str:
    reply = await stub.Open(pb.OpenRequest(model=model), timeout=DEADLINE)
    return str(reply.session.session_id)


def sessions_in_memory() -> int:
    gc.collect()
    # Not isinstance: it looks through weak proxies, which other libraries leave about dead.
    return sum(type(thing) is Session for thing in gc.get_objects())


def test_a_stream_keeps_no_session_that_ended(repository: Path) -> None:
    async def main() -> None:
        async with serve(registry_of(repository)) as stub:
            call = stub.Stream(timeout=DEADLINE)
            before = sessions_in_memory()
            for _ in range(50):
                session = await open_session(stub)
                await call.write(pb.StreamRequest(step=step(session, "abc", 0)))
                assert (await call.read()).step.position == 3
                await stub.Close(pb.CloseRequest(session_id=session), timeout=DEADLINE)
            # The last one may still be in a frame of the server.
            assert sessions_in_memory() <= before + 1
            await call.done_writing()

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_bug_in_one_step_does_not_keep_the_call_from_ending(repository: Path, fault: str) -> None:
    """A model record that contradicts itself: its step fails before, or after, it is computed."""
    good = registry_of(repository)
    bad = good.get("letters")
    if fault == "before":
        bad = dataclasses.replace(bad, codec=0)  # type: ignore[arg-type]
    else:
        bad = dataclasses.replace(bad, codec=CharacterCodec(()))
    what = "abc" if fault == "before" else [1, 2, 3]

    async def main() -> list[pb.StreamResponse]:
        async with serve(Registry([bad, good.get("ids")])) as stub:
            broken, whole = await open_session(stub), await open_session(stub, "ids")
            requests = [
                pb.StreamRequest(request_id=1, step=step(broken, what, 0)),
                pb.StreamRequest(request_id=2, step=step(whole, [1, 2], 0)),
            ]
            return [answer async for answer in stub.Stream(iter(requests), timeout=DEADLINE)]

    with capture_logs() as lines:
        answers = {answer.request_id: answer for answer in asyncio.run(main())}
    assert answers[2].step.position == 2
    error = take_apart(answers[1].error)
    assert (error.code, error.reason) == ("INTERNAL", "INTERNAL")
    assert [line["request_id"] for line in lines] == [error.metadata["request_id"]]
