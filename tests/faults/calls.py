"""One request of a script as a call, and its answer as bits that do not tell a replay from the first time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from faults.history import digest
from faults.script import Planned
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    # Servers are back within a second or two here.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long an attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """position: the session's after it. tokens: what was generated, if anything was."""

    position: int
    bits: bytes
    replayed: bool = False
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call ended. reason: the server's, or the status code where it comes from the transport.

    expected: the position that the server wants. retry_after: seconds, None if waiting does not help.
    """

    reason: str
    code: str
    expected: int | None = None
    retry_after: float | None = None
    ours: bool = True
    message: str = ""


class CutOffError(Exception):
    """A generation ended in an error after some tokens."""

    def __init__(self, tokens: tuple[int, ...], cause: grpc.RpcError) -> None:
        super().__init__(str(cause))
        self.tokens = tokens
        self.cause = cause


class Connection:
    """A channel of asyncio and its stubs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, OPTIONS)
        self.stub: Any = sequences_pb2_grpc.SequencesStub(self.channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self.channel.close()


async def perform(stub: Any, planned: Planned, timeout: float) -> Answer:
    """Make the call. Raises grpc.RpcError, CutOffError."""
    message = planned.message
    if isinstance(message, pb.GenerateRequest):
        return await _generate(stub, message, timeout)
    call = stub.Score if isinstance(message, pb.ScoreRequest) else stub.Step
    reply = await call(message, timeout=timeout)
    replayed, reply.replayed = reply.replayed, False
    return Answer(reply.position, digest(reply.SerializeToString(deterministic=True)), replayed)


async def _generate(stub: Any, message: pb.GenerateRequest, timeout: float) -> Answer:
    whole = pb.GenerateResponse()
    try:
        async for part in stub.Generate(message, timeout=timeout):
            # Appends the repeated fields and takes the last of the others.
            text = whole.text + part.text
            whole.MergeFrom(part)
            whole.text = text
    except grpc.RpcError as error:
        if whole.tokens:
            raise CutOffError(tuple(whole.tokens), error) from error
        raise
    bits = digest(whole.SerializeToString(deterministic=True))
    return Answer(whole.position, bits, tokens=tuple(whole.tokens))


def failure(error: grpc.RpcError) -> Failure:
    """What a call's error says."""
    code = error.code().name
    status = rpc_status.from_call(error)
    return _told(status, code) if status is not None else Failure(code, code, None, 0.0, ours=False)


def _told(status: status_pb2.Status, code: str) -> Failure:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after = None
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    expected = info.metadata.get("expected_position")
    return Failure(
        info.reason, code, None if expected is None else int(expected), retry_after, message=status.message
    )
