"""The synchronous client against a real server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from grpc import StatusCode
from keepgate_client import (
    CategoricalHeadInfo,
    Client,
    DrainingError,
    FeatureInputInfo,
    FinishReason,
    InvalidArgumentError,
    ModelNotFoundError,
    PositionMismatchError,
    RetryPolicy,
    SessionBusyError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionInUseError,
    SessionNotFoundError,
    SessionsExhaustedError,
    StepMismatchError,
    StepSkippedError,
    TokenInputInfo,
    UnreachableError,
)
from support.repositories import ALPHABET
from support.servers import ServerProcess

ONCE = RetryPolicy(attempts=1)


def test_models(client: Client) -> None:
    assert [(m.name, m.version) for m in client.models()] == [
        ("ids", "1"),
        ("letters", "1"),
        ("letters", "2"),
        ("vectors", "1"),
    ]
    letters = client.model("letters")
    assert letters.version == "2"
    assert letters.input == TokenInputInfo(len(ALPHABET), 4, "characters", tuple(ALPHABET))
    assert letters.head == CategoricalHeadInfo(len(ALPHABET))
    assert [(layer.cell, layer.hidden_size) for layer in letters.layers] == [("gru", 16), ("gru", 12)]
    assert client.model("letters", "1").layers[0].cell == "lstm"
    assert client.model("vectors").input == FeatureInputInfo(3)
    with pytest.raises(ModelNotFoundError, match="letters/2") as caught:
        client.model("nothing")
    assert (caught.value.model, caught.value.code) == ("nothing", StatusCode.NOT_FOUND)


def test_step_returns_what_was_asked_for(client: Client) -> None:
    with client.open("letters", "1") as session:
        assert (session.model, session.version, session.position) == ("letters", "1", 0)
        prediction = session.step(text="hello", top=3, logits=True, hidden=True)
        assert session.position == prediction.position == 5
        assert prediction.logits is not None
        assert prediction.logits.shape == (len(ALPHABET),)
        assert prediction.logits.dtype == np.float32
        assert [h.shape for h in prediction.hidden] == [(16,)]
        assert prediction.outputs is None
        assert prediction.token == int(prediction.logits.argmax()) == prediction.top[0].token
        assert prediction.text == ALPHABET[prediction.token] == prediction.top[0].text
        assert prediction.log_probability == prediction.top[0].log_probability
        assert len(prediction.top) == 3
        bare = session.step(tokens=prediction.token)
        assert (bare.logits, bare.hidden, bare.top) == (None, (), ())


def test_step_takes_tokens_text_and_features_in_every_form(client: Client) -> None:
    ids = [ALPHABET.index(c) for c in "abc"]
    with client.open("letters") as a, client.open("letters") as b, client.open("letters") as c:
        expected = a.step(text="abc", logits=True)
        assert b.step(tokens=ids, logits=True) == expected
        assert c.step(tokens=np.array(ids, dtype=np.uint32), logits=True) == expected
    with client.open("vectors") as a, client.open("vectors") as b:
        rows = np.arange(6, dtype=np.float64).reshape(2, 3) / 8
        for row in rows:
            single = a.step(features=row.tolist())
        together = b.step(features=rows)
        assert single.outputs is not None
        assert single.outputs.dtype == np.float32
        assert together == single
        assert (together.token, together.text, together.log_probability) == (None, "", None)


def test_arguments_that_cannot_be_sent_are_refused_here(client: Client) -> None:
    with client.open("letters") as session:
        with pytest.raises(TypeError, match="exactly one of tokens, text and features, got none"):
            session.step()
        with pytest.raises(TypeError, match="got tokens, text"):
            session.step(text="a", tokens=1)
        with pytest.raises(ValueError, match=r"tokens\[1\]: got -1"):
            session.step(tokens=[1, -1])
        with pytest.raises(ValueError, match="tokens: got shape"):
            session.step(tokens=[0.5])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="seed: got -1"):
            session.step(text="a", seed=-1)
        with pytest.raises(ValueError, match="timeout: got 0"):
            session.step(text="a", timeout=0)
        with pytest.raises(ValueError, match="no generation to go on with"):
            session.generate(max_tokens=1)
        assert session.position == session.describe().position == 0


def test_generation_continues_where_it_ended(client: Client) -> None:
    options = {"temperature": 0.9, "top_k": 9, "top_p": 0.95, "seed": 7}
    with client.open("letters") as whole, client.open("letters") as parts, client.open("letters") as steps:
        tokens = list(whole.generate("abc", max_tokens=12, **options))  # type: ignore[arg-type]
        assert [t.position for t in tokens] == list(range(3, 15))
        assert [t.finish_reason for t in tokens[-2:]] == [None, FinishReason.MAX_TOKENS]
        assert whole.position == whole.describe().position == 14

        halves = list(parts.generate("abc", max_tokens=5, coalesce=2, **options))  # type: ignore[arg-type]
        halves += parts.generate(max_tokens=7, coalesce=100, **options)  # type: ignore[arg-type]
        assert [(t.token, t.text, t.position) for t in halves] == [
            (t.token, t.text, t.position) for t in tokens
        ]

        drawn = steps.step(text="abc", **options)  # type: ignore[arg-type]
        for token in tokens:
            assert (drawn.token, drawn.log_probability) == (token.token, token.log_probability)
            drawn = steps.step(tokens=token.token, **options)  # type: ignore[arg-type]


def test_generation_stops_at_a_stop_token(client: Client) -> None:
    with client.open("letters") as session:
        first = next(iter(session.generate("abc", max_tokens=5)))
    with client.open("letters") as session:
        tokens = list(session.generate("abc", max_tokens=5, stop_tokens=[first.token]))
        assert [(t.token, t.finish_reason) for t in tokens] == [(first.token, FinishReason.STOP_TOKEN)]


def test_generation_left_early_never_continues_unseen(client: Client) -> None:
    with client.open("letters") as session:
        tokens = session.generate("abc", max_tokens=1000)
        for token in tokens:
            if token.position == 5:
                break
        tokens.close()  # type: ignore[attr-defined]
        assert session.position == 5
        ahead = session.resync().position
        assert session.position == ahead >= 5
        assert session.step(text="a").position == ahead + 1


def test_score(client: Client) -> None:
    with client.open("letters") as session:
        first = session.score(text="hello ", per_token=True)
        assert (first.scored, first.position) == (5, 6)
        assert first.log_probabilities is not None
        assert first.log_probabilities.shape == (5,)
        assert math.isclose(first.log_likelihood, float(first.log_probabilities.sum()), rel_tol=1e-5)
        second = session.score(text="world")
        assert (second.scored, session.position, second.log_probabilities) == (5, 11, None)
    whole = client.score("letters", text="hello world")
    assert math.isclose(whole.log_likelihood, first.log_likelihood + second.log_likelihood, rel_tol=1e-9)
    assert math.isclose(whole.bits_per_token, -whole.log_likelihood / 10 / math.log(2))
    assert math.isnan(client.score("letters", text="h").bits_per_token)


@pytest.mark.parametrize("window", [1, 16])
def test_stream_equals_steps(client: Client, window: int) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    with client.open("letters") as session:
        expected = [session.step(text=c, logits=True) for c in text]
    with client.open("letters") as session:
        assert list(session.stream(text=text, logits=True, window=window)) == expected
        assert session.position == len(text)
        assert session.step(text="a").position == len(text) + 1
    ids = [ALPHABET.index(c) for c in text]
    with client.open("letters") as session:
        assert list(session.stream(tokens=ids, logits=True, window=window)) == expected


def test_one_stream_for_many_sessions(client: Client) -> None:
    texts = ["one", "two, three.", "and four"]
    with client.open("letters") as a, client.open("letters") as b, client.open("letters", "1") as c:
        sessions = [a, b, c]
        with client.stream() as stream:
            futures = [
                [stream.step(s, text=x) for x in text] for s, text in zip(sessions, texts, strict=True)
            ]
            assert [f[-1].result().position for f in futures] == [len(text) for text in texts]
        assert a.position == 3
        # The stream gave the sessions back.
        for session, text in zip(sessions, texts, strict=True):
            with client.open(session.model, session.version) as alone:
                assert alone.step(text=text).text == futures[sessions.index(session)][-1].result().text


def test_refused_step_in_a_stream_skips_what_was_queued_behind_it(client: Client) -> None:
    with client.open("ids") as session, client.open("ids") as other, client.stream(window=2) as stream:
        futures = [stream.step(session, tokens=t) for t in (1, 99, 2, 3)]
        healthy = stream.step(other, tokens=5)
        assert futures[0].result().position == 1
        with pytest.raises(InvalidArgumentError) as caught:
            futures[1].result()
        for future in futures[2:]:
            with pytest.raises(StepSkippedError) as skipped:
                future.result()
            assert skipped.value.__cause__ is caught.value
        assert healthy.result().position == 1
        assert stream.step(session, tokens=2).result().position == 2


def test_session_is_closed_at_the_end_of_its_block(client: Client) -> None:
    with client.open("letters", session_id="closed-by-with", idle_ttl=timedelta(minutes=1)) as session:
        assert session.describe().idle_ttl == timedelta(minutes=1)
        session.step(text="abc")
    with pytest.raises(SessionClosedError):
        session.step(text="d")
    with client.open("letters") as session:
        assert session.close() == 0
    with pytest.raises(ZeroDivisionError), client.open("letters") as session:
        raise ZeroDivisionError
    with pytest.raises(SessionClosedError):
        session.describe()


def test_attach_takes_a_session_up(client: Client) -> None:
    first = client.open("letters", session_id="attached")
    expected = [first.step(text=c) for c in "ab"]
    second = client.attach("attached")
    assert (second.position, second.model, second.version) == (2, "letters", "2")
    assert second.step(text="c").position == 3
    with pytest.raises(StepMismatchError):
        first.step(text="x")
    first.resync()
    assert first.step(text="d").position == 4
    assert second.position == 3
    first.step(text="e")
    with pytest.raises(StepMismatchError) as changed:
        second.step(text="e")
    assert (changed.value.position, changed.value.expected_position) == (3, 5)
    assert changed.value.session_id == "attached"
    first.rewind(2)
    with pytest.raises(PositionMismatchError) as mismatch:
        second.step(text="e")
    assert (mismatch.value.position, mismatch.value.expected_position) == (3, 2)
    with pytest.raises(SessionExistsError):
        client.open("letters", session_id="attached")
    assert expected[0].position == 1
    client.attach("attached").close()
    with pytest.raises(SessionNotFoundError):
        client.attach("never-there")


def test_sessions_are_listed_over_pages(start_server: Callable[..., ServerProcess]) -> None:
    with Client(start_server().address) as client:
        opened = [client.open("ids") for _ in range(5)]
        listed = [info.session_id for info in client.sessions("ids", page_size=2)]
        assert listed == [session.session_id for session in opened]
        for session in opened:
            session.close()
        assert list(client.sessions("ids")) == []


def test_one_call_at_a_time(client: Client) -> None:
    with client.open("letters") as session:
        for token in session.generate("abc", max_tokens=3):
            with pytest.raises(SessionBusyError, match="step was called while generate runs"):
                session.step(text="a")
            assert token.position >= 3


def test_invalid_arguments_name_their_field(client: Client) -> None:
    with client.open("letters") as session:
        with pytest.raises(InvalidArgumentError) as caught:
            session.step(tokens=[1, 2, 99])
        assert [v.field for v in caught.value.violations] == ["inputs.tokens.ids[2]"]
        with pytest.raises(ValueError, match="temperature"):
            session.step(text="a", temperature=-1)
        assert session.step(text="a").position == 1


def test_limits_and_ends(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(max_sessions=1)
    with Client(server.address, retry=ONCE) as client:
        with client.open("letters", idle_ttl=1.5) as session:
            with pytest.raises(SessionsExhaustedError) as full:
                client.open("letters")
            assert full.value.retry_after == 1.0
            time.sleep(1.7)
            with pytest.raises(SessionExpiredError):
                session.describe()
        with client.open("ids") as session, client.stream() as one, client.stream() as two:
            assert one.step(session, tokens=1).result().position == 1
            with pytest.raises(SessionInUseError):
                two.step(session, tokens=2).result()
        assert server.stop() == 0
        with pytest.raises((UnreachableError, DrainingError)):
            client.open("ids")


def test_unreachable_server_is_named() -> None:
    with Client("127.0.0.1:1", retry=RetryPolicy(attempts=2)) as client:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
            client.open("letters")
        with pytest.raises(UnreachableError):
            client.models()


SURROGATE = "a\ud800"


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("session_id", lambda c: c.open("letters", session_id=SURROGATE)),
        ("session_id", lambda c: c.attach(SURROGATE)),
        ("model", lambda c: c.open(SURROGATE)),
        ("version", lambda c: c.open("letters", SURROGATE)),
        ("model", lambda c: c.score(SURROGATE, text="ab")),
        ("text", lambda c: c.score("letters", text=SURROGATE)),
        ("model", lambda c: list(c.sessions(SURROGATE))),
        ("name", lambda c: c.model(SURROGATE)),
        ("text", lambda c: c.open("letters", idle_ttl=1).step(text=SURROGATE)),
        ("text", lambda c: c.open("letters", idle_ttl=1).generate(SURROGATE, max_tokens=1)),
    ],
)
def test_lone_surrogates_are_refused(client: Client, field: str, call: Callable[[Client], object]) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: got the lone surrogate '\\ud800' at character 1, exp"):
        call(client)


@pytest.mark.parametrize(
    "idle_ttl",
    [1e30, 1e13, math.inf, -math.inf, math.nan, -1, -1e30, 0, timedelta.max, timedelta.min, timedelta(-1)],
)
def test_idle_ttl_out_of_range_is_refused(client: Client, idle_ttl: float | timedelta) -> None:
    with pytest.raises(ValueError, match=r"^idle_ttl: got .*, expected at least 1 µs and at most"):
        client.open("letters", idle_ttl=idle_ttl)
