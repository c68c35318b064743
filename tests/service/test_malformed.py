"""Bytes that are no message: the client's fault, whatever the method."""

from __future__ import annotations

from typing import Any

import pytest
from keepgate_protos.v1 import sequences_pb2 as pb
from support.wire import DEADLINE, Wire, failure, step

NO_MESSAGE = b"\x0a\x05s"
"""Field 1 is five bytes long, and one is there."""


@pytest.mark.parametrize("method", ["Sequences/Step", "Sequences/Open", "Models/Describe"])
def test_a_request_that_does_not_parse(wire: Wire, method: str) -> None:
    call: Any = wire.channel.unary_unary(f"/keepgate.v1.{method}")
    error = failure(lambda: call(NO_MESSAGE, timeout=DEADLINE))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
    assert "got 3 bytes that do not parse, expected a serialized request" in error.message
    assert error.message.endswith(f"/keepgate.v1.{method}")


def test_a_generate_request_that_does_not_parse(wire: Wire) -> None:
    call: Any = wire.channel.unary_stream("/keepgate.v1.Sequences/Generate")
    error = failure(lambda: list(call(NO_MESSAGE, timeout=DEADLINE)))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


def test_a_stream_answers_what_came_before_a_request_that_does_not_parse(wire: Wire) -> None:
    session = wire.open()
    good = pb.StreamRequest(request_id=7, step=step(session, "abc", 0)).SerializeToString()
    stream: Any = wire.channel.stream_stream("/keepgate.v1.Sequences/Stream")
    answers = stream(iter([good, NO_MESSAGE]), timeout=DEADLINE)
    assert pb.StreamResponse.FromString(next(answers)).step.position == 3
    error = failure(lambda: next(answers))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
    assert wire.step(session, "d", 3).position == 4  # no stream owns it any more
