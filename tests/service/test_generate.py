"""Generation on the server: the same tokens as stepping, in any company, however often it is
interrupted."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from keepgate_kernels import Sampling, sample
from keepgate_protos.v1 import sequences_pb2 as pb
from support.wire import Wire, failure, inputs

SAMPLINGS = [
    pb.Sampling(),
    pb.Sampling(temperature=1.0, seed=7),
    pb.Sampling(temperature=0.7, top_k=5, seed=2**64 - 1),
    pb.Sampling(temperature=1.3, top_p=0.8, seed=3),
    pb.Sampling(temperature=1.0, top_k=12, top_p=0.5, seed=4),
]
WARM = SAMPLINGS[1]


def tokens_of(messages: list[pb.GenerateResponse]) -> list[int]:
    return [token for message in messages for token in message.tokens]


def request(session: str, prompt: Any, position: int | None = None, **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(session_id=session, prompt=inputs(prompt), position=position, **fields)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("version", ["1", "2"])
def test_generating_is_stepping(wire: Wire, sampling: pb.Sampling, version: str) -> None:
    generated = wire.open(version=version)
    messages = wire.generate(generated, "once ", 0, sampling=sampling, max_tokens=50)
    stepped = wire.open(version=version)
    reply = wire.step(stepped, "once ", 0, sampling=sampling)
    for message in messages:
        assert list(message.tokens) == [reply.prediction.token]
        assert list(message.log_probabilities) == [reply.prediction.log_probability]
        assert message.text == reply.prediction.text
        assert message.position == reply.position
        reply = wire.step(stepped, [reply.prediction.token], reply.position, sampling=sampling)
    assert len(messages) == 50
    assert wire.position(generated) == 54  # the last token is predicted, not applied


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_generating_is_stepping_and_sampling_at_the_client(wire: Wire, sampling: pb.Sampling) -> None:
    tokens = tokens_of(wire.generate(wire.open(), "once ", 0, sampling=sampling, max_tokens=50))
    local = Sampling(sampling.temperature, sampling.top_k, sampling.top_p or 1.0, sampling.seed)
    stepped = wire.open()
    reply = wire.step(stepped, "once ", 0, outputs=pb.Outputs(logits=True))
    drawn = []
    for _ in range(50):
        logits = np.array(reply.prediction.logits, np.float32)
        token, _ = sample(logits, reply.position, local)
        drawn.append(int(token))
        reply = wire.step(stepped, [drawn[-1]], reply.position, outputs=pb.Outputs(logits=True))
    assert drawn == tokens


def test_generation_is_the_same_in_any_company(wire: Wire) -> None:
    alone = wire.generate(wire.open(), "once ", 0, sampling=WARM, max_tokens=100)
    crowd = [
        wire.sequences.Generate(
            request(wire.open(), "abcdefgh"[: 1 + index % 8], sampling=WARM, max_tokens=100)
        )
        for index in range(30)
    ]
    among = wire.generate(wire.open(), "once ", 0, sampling=WARM, max_tokens=100)
    assert among == alone
    for call in crowd:
        assert len(tokens_of(list(call))) == 100


def test_messages_carry_as_many_tokens_as_asked(wire: Wire) -> None:
    single = wire.generate(wire.open(), "a", 0, sampling=WARM, max_tokens=10)
    coalesced = wire.generate(wire.open(), "a", 0, sampling=WARM, max_tokens=10, coalesce=4)
    assert [len(message.tokens) for message in coalesced] == [4, 4, 2]
    assert tokens_of(coalesced) == tokens_of(single)
    assert "".join(message.text for message in coalesced) == "".join(message.text for message in single)
    assert [message.position for message in single] == list(range(1, 11))
    assert [message.position for message in coalesced] == [4, 8, 10]
    for messages in (single, coalesced):
        assert [message.finish_reason for message in messages[:-1]] == [0] * (len(messages) - 1)
        assert messages[-1].finish_reason == pb.FINISH_REASON_MAX_TOKENS


def test_a_stop_token_ends_it_and_is_part_of_it(wire: Wire) -> None:
    tokens = tokens_of(wire.generate(wire.open(), "a", 0, sampling=WARM, max_tokens=40))
    stop = tokens[20]
    session = wire.open()
    messages = wire.generate(session, "a", 0, sampling=WARM, max_tokens=40, stop_tokens=[stop], coalesce=64)
    assert tokens_of(messages) == tokens[: tokens.index(stop) + 1]
    assert messages[-1].finish_reason == pb.FINISH_REASON_STOP_TOKEN
    assert wire.position(session) == 1 + tokens.index(stop)


def test_going_on_from_the_last_token_is_one_generation(wire: Wire) -> None:
    whole = tokens_of(wire.generate(wire.open(), "a", 0, sampling=WARM, max_tokens=30))
    session = wire.open()
    first = tokens_of(wire.generate(session, "a", 0, sampling=WARM, max_tokens=12))
    second = tokens_of(wire.generate(session, first[-1:], 12, sampling=WARM, max_tokens=18))
    assert first + second == whole


def test_a_finished_generation_sent_again_streams_the_same(wire: Wire) -> None:
    session = wire.open()
    first = wire.generate(session, "abc", 0, sampling=WARM, max_tokens=20)
    assert wire.generate(session, "abc", 0, sampling=WARM, max_tokens=20) == first
    assert wire.position(session) == 22
    coalesced = wire.generate(session, "abc", 0, sampling=WARM, max_tokens=20, coalesce=100)
    assert tokens_of(coalesced) == tokens_of(first)
    assert wire.position(session) == 22
    for other in (
        request(session, "abd", 0, sampling=WARM, max_tokens=20),
        request(session, "abc", 0, sampling=WARM, max_tokens=21),
        request(session, "abc", 0, max_tokens=20),
        request(session, "abc", 0, sampling=WARM, max_tokens=20, stop_tokens=[1]),
    ):
        assert failure(partial(next, wire.sequences.Generate(other))).reason == "STEP_MISMATCH"


def test_without_position_it_is_another_generation(wire: Wire) -> None:
    session = wire.open()
    wire.generate(session, "abc", sampling=WARM, max_tokens=20)
    wire.generate(session, "abc", sampling=WARM, max_tokens=20)
    assert wire.position(session) == 44


@pytest.mark.parametrize("read", [1, 7])
def test_an_interrupted_generation_goes_on_where_it_stopped(wire: Wire, read: int) -> None:
    expected = tokens_of(wire.generate(wire.open(), "abc", 0, sampling=WARM, max_tokens=2_000))
    session = wire.open()
    again = request(session, "abc", 0, sampling=WARM, max_tokens=2_000)
    for _ in range(3):
        call = wire.sequences.Generate(again)
        seen = [next(call).tokens[0] for _ in range(read)]
        call.cancel()
        assert seen == expected[:read]
    assert wire.position(session) < 2_002
    assert tokens_of(list(wire.sequences.Generate(again))) == expected
    assert wire.position(session) == 2_002


def test_a_generation_stops_when_nobody_listens(wire: Wire) -> None:
    session = wire.open()
    call = wire.sequences.Generate(request(session, "abc", 0, sampling=WARM, max_tokens=16_000))
    next(call)
    call.cancel()
    # A step that names the position is refused while it still runs, and taken once it has stopped.
    while True:
        position = wire.position(session)
        reply = wire.sequences.Step.future(
            pb.StepRequest(session_id=session, inputs=inputs("x"), position=position)
        )
        if reply.exception() is None:
            break
        assert reply.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reply.result().position == position + 1 < 16_000


def test_the_same_generation_read_by_many_is_made_once(wire: Wire) -> None:
    session = wire.open()
    same = request(session, "abc", 0, sampling=WARM, max_tokens=300)
    calls = [wire.sequences.Generate(same) for _ in range(5)]
    replies = [tokens_of(list(call)) for call in calls]
    assert all(reply == replies[0] for reply in replies)
    assert wire.position(session) == 302


def test_a_step_in_between_ends_a_generation(wire: Wire) -> None:
    session = wire.open()
    call = wire.sequences.Generate(request(session, "abc", 0, sampling=WARM, max_tokens=16_000))
    next(call)
    position = wire.step(session, "x").position
    error = failure(lambda: list(call))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "POSITION_MISMATCH")
    assert int(error.metadata["expected_position"]) == position == wire.position(session)


def test_closing_the_session_ends_a_generation(wire: Wire) -> None:
    session = wire.open()
    call = wire.sequences.Generate(request(session, "abc", 0, sampling=WARM, max_tokens=16_000))
    next(call)
    wire.close(session)
    assert failure(lambda: list(call)).reason == "SESSION_CLOSED"


def test_a_model_without_tokenizer_sends_no_text(wire: Wire) -> None:
    messages = wire.generate(wire.open("ids"), [1, 2], 0, max_tokens=5)
    assert len(tokens_of(messages)) == 5
    assert [message.text for message in messages] == [""] * 5


def test_stop_tokens_are_no_part_of_the_prompt(wire: Wire) -> None:
    session = wire.open("ids")
    wire.generate(session, [5, 7], 0, max_tokens=1)
    error = failure(lambda: wire.generate(session, [7], 0, max_tokens=1, stop_tokens=[5]))
    assert error.reason == "STEP_MISMATCH"
