"""Calls of keepgate.v1 as bytes on a socket: the generated stubs, and errors taken apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status
from keepgate_protos.v1 import models_pb2_grpc, sequences_pb2_grpc
from keepgate_protos.v1 import sequences_pb2 as pb

DEADLINE = 60.0
"""Seconds after which a call counts as hung."""


class Wire:
    """One connection: the stubs, and short forms of what tests do often."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.sequences: Any = sequences_pb2_grpc.SequencesStub(channel)  # type: ignore[no-untyped-call]
        self.models: Any = models_pb2_grpc.ModelsStub(channel)  # type: ignore[no-untyped-call]

    def open(self, model: str = "letters", **fields: Any) -> str:
        """A new session's id."""
        reply = self.sequences.Open(pb.OpenRequest(model=model, **fields), timeout=DEADLINE)
        return str(reply.session.session_id)

    def step(self, session_id: str, what: Any, position: int | None = None, **fields: Any) -> pb.StepResponse:
        reply: pb.StepResponse = self.sequences.Step(
            step(session_id, what, position, **fields), timeout=DEADLINE
        )
        return reply

    def generate(
        self, session_id: str, prompt: Any, position: int | None = None, **fields: Any
    ) -> list[pb.GenerateResponse]:
        """All messages of a generation."""
        request = pb.GenerateRequest(
            session_id=session_id, prompt=inputs(prompt), position=position, **fields
        )
        return list(self.sequences.Generate(request, timeout=DEADLINE))

    def score(
        self, session_id: str, what: Any, position: int | None = None, **fields: Any
    ) -> pb.ScoreResponse:
        request = pb.ScoreRequest(session_id=session_id, inputs=inputs(what), position=position, **fields)
        reply: pb.ScoreResponse = self.sequences.Score(request, timeout=DEADLINE)
        return reply

    def stream(self, requests: Iterable[pb.StepRequest]) -> list[pb.StreamResponse]:
        """Answers to steps sent at once, numbered from 0."""
        numbered = (pb.StreamRequest(request_id=i, step=request) for i, request in enumerate(requests))
        return list(self.sequences.Stream(numbered, timeout=DEADLINE))

    def describe(self, session_id: str) -> pb.Session:
        reply = self.sequences.Describe(pb.DescribeRequest(session_id=session_id), timeout=DEADLINE)
        session: pb.Session = reply.session
        return session

    def position(self, session_id: str) -> int:
        return int(self.describe(session_id).position)

    def fork(self, session_id: str, **fields: Any) -> str:
        """The new session's id."""
        reply = self.sequences.Fork(pb.ForkRequest(session_id=session_id, **fields), timeout=DEADLINE)
        return str(reply.session.session_id)

    def rewind(self, session_id: str, position: int) -> int:
        """The position that the session is at now."""
        request = pb.RewindRequest(session_id=session_id, position=position)
        return int(self.sequences.Rewind(request, timeout=DEADLINE).session.position)

    def export(self, session_id: str) -> bytes:
        reply = self.sequences.Export(pb.ExportRequest(session_id=session_id), timeout=DEADLINE)
        return bytes(reply.blob)

    def import_session(self, blob: bytes, **fields: Any) -> pb.Session:
        reply = self.sequences.Import(pb.ImportRequest(blob=blob, **fields), timeout=DEADLINE)
        session: pb.Session = reply.session
        return session

    def close(self, session_id: str) -> int:
        reply = self.sequences.Close(pb.CloseRequest(session_id=session_id), timeout=DEADLINE)
        return int(reply.position)


@contextmanager
def connect(address: str) -> Iterator[Wire]:
    """A connection of its own, closed at the end."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Wire(channel)


def inputs(what: Any) -> pb.Inputs:
    """Text from a str, tokens from ints, features from floats."""
    if isinstance(what, pb.Inputs):
        return what
    if isinstance(what, str):
        return pb.Inputs(text=what)
    values = list(what)
    if values and isinstance(values[0], float):
        return pb.Inputs(features=pb.Features(values=values))
    return pb.Inputs(tokens=pb.Tokens(ids=values))


def step(session_id: str, what: Any, position: int | None = None, **fields: Any) -> pb.StepRequest:
    return pb.StepRequest(session_id=session_id, inputs=inputs(what), position=position, **fields)


@dataclass(frozen=True)
class Failure:
    """An error as a client sees it. field is "" and retry_after 0 where the error has none."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str]
    field: str = ""
    retry_after: float = 0.0
    request_id: str = dataclasses.field(default="", compare=False)


def failure(call: Callable[[], Any]) -> Failure:
    """The error that a call ends with; fails the test if it succeeds."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    assert status is not None, f"no details: {caught.value}"
    return take_apart(status)


def take_apart(status: status_pb2.Status) -> Failure:
    """The details of a google.rpc.Status. Every error has an ErrorInfo of the domain "keepgate"."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    asked = error_details_pb2.RequestInfo()
    more = (
        error_details_pb2.ResourceInfo.DESCRIPTOR,
        error_details_pb2.PreconditionFailure.DESCRIPTOR,
        error_details_pb2.QuotaFailure.DESCRIPTOR,
    )
    for detail in status.details:
        known = any(detail.Unpack(kind) for kind in (info, request, retry, asked))
        assert known or any(map(detail.Is, more)), detail
    assert info.domain == "keepgate"
    assert asked.request_id
    return Failure(
        code=next(code.name for code in grpc.StatusCode if code.value[0] == status.code),
        reason=info.reason,
        message=status.message,
        metadata=dict(info.metadata),
        field=request.field_violations[0].field if request.field_violations else "",
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9,
        request_id=asked.request_id,
    )
