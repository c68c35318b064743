"""Every bad request has its own clear error, and the other sessions go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from keepgate_protos.v1 import models_pb2
from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess
from support.wire import Wire, failure, inputs, step

Start = Callable[..., ServerProcess]
PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What gRPC does not percent-encode in a message."""


@pytest.fixture(autouse=True)
def bystander(wire: Wire) -> Iterator[None]:
    """A session that goes on before and after each error, as if nothing had happened."""
    session = wire.open()
    wire.step(session, "before", 0)
    yield
    assert wire.step(session, "after", 6).position == 11
    wire.close(session)


def test_gap_in_positions(wire: Wire) -> None:
    session = wire.open()
    wire.step(session, "abc", 0)
    error = failure(lambda: wire.step(session, "d", 4))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "POSITION_MISMATCH")
    assert error.message == f"position: got 4, expected 3, the position of session '{session}'"
    assert error.metadata == {"session_id": session, "position": "4", "expected_position": "3"}
    assert wire.position(session) == 3


def test_other_inputs_at_the_last_position(wire: Wire) -> None:
    session = wire.open()
    wire.step(session, "abc", 0)
    for other in (
        lambda: wire.step(session, "abd", 0),
        lambda: wire.step(session, "abc", 0, sampling=pb.Sampling(seed=1)),
        lambda: wire.step(session, "abc", 0, outputs=pb.Outputs(top_k=1)),
        lambda: wire.score(session, "abc", 0),
        lambda: wire.generate(session, "abc", 0, max_tokens=1),
    ):
        error = failure(other)
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STEP_MISMATCH")
        assert error.metadata == {"session_id": session, "position": "0", "expected_position": "3"}
    assert wire.position(session) == 3


def calls_of(wire: Wire, session: str) -> list[Callable[[], Any]]:
    """Every call that names a session."""
    return [
        lambda: wire.step(session, "a"),
        lambda: wire.generate(session, "a", max_tokens=1),
        lambda: wire.score(session, "a"),
        lambda: wire.position(session),
        lambda: wire.close(session),
    ]


def test_unknown_session(wire: Wire) -> None:
    for call in calls_of(wire, "nobody"):
        error = failure(call)
        assert (error.code, error.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        assert error.message == "session 'nobody' is unknown to this server"
        assert error.metadata == {"session_id": "nobody"}


def test_closed_session(wire: Wire) -> None:
    session = wire.open()
    wire.step(session, "abc")
    assert wire.close(session) == 3
    for call in calls_of(wire, session):
        error = failure(call)
        assert (error.code, error.reason) == ("NOT_FOUND", "SESSION_CLOSED")
        assert error.message == f"session '{session}' is closed"


def test_expired_session(wire: Wire) -> None:
    session = wire.open(idle_ttl=Duration(nanos=1))
    calls = calls_of(wire, session)
    for call in calls:
        error = failure(call)
        assert (error.code, error.reason) == ("NOT_FOUND", "SESSION_EXPIRED")
        assert error.message == f"session '{session}' expired: no request came within its idle_ttl"


def test_session_id_in_use(wire: Wire) -> None:
    session = wire.open()
    error = failure(lambda: wire.open(session_id=session))
    assert (error.code, error.reason) == ("ALREADY_EXISTS", "SESSION_EXISTS")
    assert error.metadata == {"session_id": session}


def test_unknown_model(wire: Wire) -> None:
    describe = models_pb2.DescribeModelRequest(name="nothing", version="1")
    reference = pb.ModelReference(name="letters", version="7")
    for call, model, version in (
        (lambda: wire.open("nothing"), "nothing", ""),
        (lambda: wire.open("letters", version="3"), "letters", "3"),
        (lambda: wire.models.Describe(describe), "nothing", "1"),
        (lambda: wire.sequences.Score(pb.ScoreRequest(model=reference, inputs=inputs("ab"))), "letters", "7"),
    ):
        error = failure(call)
        assert (error.code, error.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "loaded: ids/1, letters/1, letters/2, vectors/1" in error.message
        assert error.metadata == {"model": model, "version": version}


def invalid(call: Callable[[], Any], field: str, message: str) -> None:
    error = failure(call)
    assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", field)
    assert error.message == f"{field}: {message}"


BAD_INPUTS = [
    ("letters", pb.Inputs(), "inputs", "got nothing, expected tokens or text"),
    ("vectors", pb.Inputs(), "inputs", "got nothing, expected features"),
    (
        "letters",
        pb.Inputs(tokens=pb.Tokens()),
        "inputs.tokens.ids",
        "got 0 token ids, expected from 1 to 16384",
    ),
    ("letters", pb.Inputs(text=""), "inputs.text", "got 0 characters, expected from 1 to 16384"),
    (
        "vectors",
        pb.Inputs(features=pb.Features()),
        "inputs.features.values",
        "got 0 feature vectors, expected from 1 to 16384",
    ),
    ("letters", "a" * 16_385, "inputs.text", "got 16385 characters, expected from 1 to 16384"),
    ("letters", [3, 29, 30], "inputs.tokens.ids[2]", "got 30, expected less than 30, the vocabulary size"),
    (
        "letters",
        [2**32 - 1],
        "inputs.tokens.ids[0]",
        "got 4294967295, expected less than 30, the vocabulary size",
    ),
    ("letters", "abC", "inputs.text[2]", "got 'C', expected a character of the vocabulary of 'letters'"),
    ("ids", "abc", "inputs.text", "got text, expected tokens: 'ids' has no tokenizer"),
    ("vectors", "abc", "inputs.text", "got text, expected features: model 'vectors' takes feature vectors"),
    ("vectors", [1], "inputs.tokens", "got tokens, expected features: model 'vectors' takes feature vectors"),
    (
        "letters",
        [1.0],
        "inputs.features.values",
        "got features, expected tokens or text: model 'letters' takes tokens",
    ),
    (
        "vectors",
        [1.0] * 4,
        "inputs.features.values",
        "got 4 values, expected a multiple of 3, the length of a feature vector",
    ),
    (
        "vectors",
        [1.0, 2.0],
        "inputs.features.values",
        "got 2 values, expected a multiple of 3, the length of a feature vector",
    ),
    ("vectors", [1.0, 2.0, math.nan], "inputs.features.values[2]", "got nan, expected a finite number"),
    ("vectors", [1.0, math.inf, 0.0], "inputs.features.values[1]", "got inf, expected a finite number"),
    ("vectors", [-math.inf, 0.0, 0.0], "inputs.features.values[0]", "got -inf, expected a finite number"),
    (
        "vectors",
        [0.0, -3e38, 0.0],
        "inputs.features.values[1]",
        "got -3e+38, expected a magnitude of at most 1e+30",
    ),
]


@pytest.mark.parametrize(("model", "what", "field", "message"), BAD_INPUTS)
def test_bad_inputs(wire: Wire, model: str, what: Any, field: str, message: str) -> None:
    session = wire.open(model)
    invalid(lambda: wire.step(session, what, 0), field, message)
    assert wire.position(session) == 0


BAD_OPTIONS = [
    (pb.Sampling(temperature=-0.5), "sampling.temperature", "got -0.5, expected a finite number, at least 0"),
    (
        pb.Sampling(temperature=math.nan),
        "sampling.temperature",
        "got nan, expected a finite number, at least 0",
    ),
    (
        pb.Sampling(temperature=math.inf),
        "sampling.temperature",
        "got inf, expected a finite number, at least 0",
    ),
    (pb.Sampling(top_p=1.5), "sampling.top_p", "got 1.5, expected from 0 (all tokens) to 1"),
    (pb.Sampling(top_p=-0.1), "sampling.top_p", "got -0.1, expected from 0 (all tokens) to 1"),
    (pb.Sampling(top_p=math.nan), "sampling.top_p", "got nan, expected from 0 (all tokens) to 1"),
]


@pytest.mark.parametrize(("sampling", "field", "message"), BAD_OPTIONS)
def test_bad_sampling(wire: Wire, sampling: pb.Sampling, field: str, message: str) -> None:
    session = wire.open()
    invalid(lambda: wire.step(session, "a", sampling=sampling), field, message)
    invalid(lambda: wire.generate(session, "a", sampling=sampling, max_tokens=1), field, message)
    assert wire.position(session) == 0


def test_outputs_that_the_model_does_not_have(wire: Wire) -> None:
    session, vectors = wire.open(), wire.open("vectors")
    for call, field, message in (
        (
            lambda: wire.step(session, "a", outputs=pb.Outputs(top_k=31)),
            "outputs.top_k",
            "got 31, expected at most 30, the vocabulary size",
        ),
        (
            lambda: wire.step(vectors, [0.0] * 3, outputs=pb.Outputs(top_k=1)),
            "outputs.top_k",
            "got 1, expected 0: model 'vectors' predicts no tokens",
        ),
        (
            lambda: wire.step(vectors, [0.0] * 3, outputs=pb.Outputs(logits=True)),
            "outputs.logits",
            "got true, expected false: model 'vectors' predicts no tokens",
        ),
        (
            lambda: wire.step(vectors, [0.0] * 3, sampling=pb.Sampling(seed=1)),
            "sampling",
            "got options, expected none: model 'vectors' draws no tokens",
        ),
    ):
        invalid(call, field, message)


def test_more_kept_tokens_than_there_are_keeps_all(wire: Wire) -> None:
    first, second = wire.open(), wire.open()
    all_of_them = pb.Sampling(temperature=1.0, seed=5)
    too_many = pb.Sampling(temperature=1.0, seed=5, top_k=1_000)
    one = wire.generate(first, "a", sampling=all_of_them, max_tokens=20)
    other = wire.generate(second, "a", sampling=too_many, max_tokens=20)
    assert one == other


def test_bad_generations(wire: Wire) -> None:
    session, vectors = wire.open(), wire.open("vectors")
    for call, field, message in (
        (lambda: wire.generate(session, "a"), "max_tokens", "got 0, expected from 1 to 16384"),
        (
            lambda: wire.generate(session, "a", max_tokens=16_385),
            "max_tokens",
            "got 16385, expected from 1 to 16384",
        ),
        (
            lambda: wire.generate(session, pb.Inputs(), max_tokens=1),
            "prompt",
            "got nothing, expected tokens or text",
        ),
        (
            lambda: wire.generate(session, [30], max_tokens=1),
            "prompt.tokens.ids[0]",
            "got 30, expected less than 30, the vocabulary size",
        ),
        (
            lambda: wire.generate(session, "a", max_tokens=1, stop_tokens=[3, 30]),
            "stop_tokens[1]",
            "got 30, expected less than 30, the vocabulary size",
        ),
        (
            lambda: wire.generate(vectors, [0.0] * 3, max_tokens=1),
            "session_id",
            "got model 'vectors' of feature vectors, expected a token model for Generate",
        ),
    ):
        invalid(call, field, message)
    assert wire.position(session) == 0


def test_bad_scores(wire: Wire) -> None:
    vectors = wire.open("vectors")
    reference = pb.ModelReference(name="letters")
    for request, field, message in (
        (pb.ScoreRequest(inputs=inputs("ab")), "target", "got nothing, expected session_id or model"),
        (
            pb.ScoreRequest(session_id=vectors, inputs=inputs([0.0] * 3)),
            "session_id",
            "got model 'vectors' of feature vectors, expected a token model for Score",
        ),
        (
            pb.ScoreRequest(model=pb.ModelReference(name="vectors"), inputs=inputs([0.0] * 3)),
            "model.name",
            "got model 'vectors' of feature vectors, expected a token model for Score",
        ),
        (
            pb.ScoreRequest(model=pb.ModelReference()),
            "model.name",
            "got nothing, expected the name of a loaded model",
        ),
        (pb.ScoreRequest(model=reference), "inputs", "got nothing, expected tokens or text"),
        (
            pb.ScoreRequest(model=reference, inputs=inputs("ab"), position=3),
            "position",
            "got 3, expected none: no session is named",
        ),
    ):
        invalid(partial(wire.sequences.Score, request), field, message)


def test_empty_messages(wire: Wire) -> None:
    nobody = "got nothing, expected the id of an open session"
    for call, field, message in (
        (
            lambda: wire.sequences.Open(pb.OpenRequest()),
            "model",
            "got nothing, expected the name of a loaded model",
        ),
        (lambda: wire.sequences.Step(pb.StepRequest()), "session_id", nobody),
        (lambda: list(wire.sequences.Generate(pb.GenerateRequest())), "session_id", nobody),
        (lambda: wire.sequences.Describe(pb.DescribeRequest()), "session_id", nobody),
        (lambda: wire.sequences.Close(pb.CloseRequest()), "session_id", nobody),
        (
            lambda: wire.models.Describe(models_pb2.DescribeModelRequest()),
            "name",
            "got nothing, expected the name of a loaded model",
        ),
    ):
        invalid(call, field, message)


def test_bad_openings(wire: Wire) -> None:
    pattern = "1 to 128 characters of [A-Za-z0-9._~-]"
    for call, field, message in (
        (lambda: wire.open(session_id="a b"), "session_id", f"got 'a b', expected {pattern}"),
        (lambda: wire.open(session_id="x" * 129), "session_id", f"got '{'x' * 129}', expected {pattern}"),
        (
            lambda: wire.open(idle_ttl=Duration()),
            "idle_ttl",
            "got 0 s, expected more than 0 and at most 86400 s",
        ),
        (
            lambda: wire.open(idle_ttl=Duration(seconds=-1)),
            "idle_ttl",
            "got -1 s, expected more than 0 and at most 86400 s",
        ),
        (
            lambda: wire.open(idle_ttl=Duration(seconds=86_401)),
            "idle_ttl",
            "got 86401 s, expected more than 0 and at most 86400 s",
        ),
        (
            lambda: wire.sequences.List(pb.ListRequest(page_token="next")),  # noqa: S106
            "page_token",
            "got 'next', expected next_page_token of an earlier answer",
        ),
    ):
        invalid(call, field, message)


def test_a_long_echo_of_the_request_is_cut(wire: Wire) -> None:
    error = failure(lambda: wire.step("x" * 1_000_000, "a"))
    assert error.reason == "SESSION_NOT_FOUND"
    assert len(quote(error.message, safe=PLAIN)) == 1_000
    assert len(quote(error.metadata["session_id"], safe=PLAIN)) == 200


@pytest.mark.parametrize("character", ["😀", "€", "%", "\x7f"])
def test_a_long_echo_in_any_alphabet_reaches_the_client(wire: Wire, character: str) -> None:
    text = character * 2_000
    session = wire.open()
    for call, reason in (
        (lambda: wire.step(text, "a"), "SESSION_NOT_FOUND"),
        (lambda: wire.open(text, version=text), "MODEL_NOT_FOUND"),
        (lambda: wire.open(session_id=text), "INVALID_ARGUMENT"),
        (lambda: wire.sequences.List(pb.ListRequest(page_token=text)), "INVALID_ARGUMENT"),
        (lambda: wire.step(session, text), "INVALID_ARGUMENT"),
    ):
        assert failure(call).reason == reason


def test_message_over_the_limit(wire: Wire) -> None:
    session = wire.open()
    big = pb.Inputs(features=pb.Features(values=[0.0] * (1 << 20)))
    with pytest.raises(grpc.RpcError) as caught:
        wire.step(session, big)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(caught.value.details())
    with pytest.raises(grpc.RpcError) as caught:
        wire.stream([step(session, "a"), step(session, big), step(session, "b")])
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert wire.position(session) <= 1
