"""Servers that are killed and started again at the same address: durable sessions go on, loss is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keepgate_client import (
    AsyncClient,
    Client,
    Prediction,
    RetryPolicy,
    Session,
    SessionModelError,
    SessionNotFoundError,
    StepSkippedError,
    StepsLostError,
    Token,
)
from support.repositories import characters_spec, write_model
from support.restarts import WAIT_SECONDS, Restartable
from support.servers import ServerProcess

STEPS = 400
RESTARTS = 3
STUBBORN = RetryPolicy(attempts=200, initial_backoff=0.02, max_backoff=0.1)


def inputs(count: int = STEPS) -> list[int]:
    return [i * 7 % 30 for i in range(count)]


def bits(predictions: list[Prediction]) -> list[tuple[object, ...]]:
    """All but `replayed`."""
    return [(p.position, p.token, p.logits.tobytes() if p.logits is not None else None) for p in predictions]


def drawn(tokens: list[Token]) -> list[tuple[object, ...]]:
    return [(t.token, t.position, t.log_probability, t.finish_reason) for t in tokens]


@pytest.fixture
def durable(start_server: Callable[..., ServerProcess], tmp_path: Path) -> Restartable:
    return Restartable(start_server, tmp_path / "sessions.db")


@pytest.fixture
def steady(durable: Restartable) -> Iterator[Client]:
    """A client that waits for the server as long as it takes."""
    with Client(durable.address, retry=STUBBORN, timeout=WAIT_SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def undisturbed(server: ServerProcess) -> list[Prediction]:
    """What the steps of `inputs` answer where nothing goes wrong."""
    with Client(server.address) as client, client.open("letters") as session:
        return [session.step(tokens=token, logits=True) for token in inputs()]


MARKS = [STEPS * (i + 1) // (RESTARTS + 1) for i in range(RESTARTS)]


def check_end(session: Session) -> None:
    assert session.position == session.describe().position == STEPS
    info = session.describe()
    assert (info.durability, info.durable_position) == ("always", STEPS)


def test_steps_across_restarts(durable: Restartable, steady: Client, undisturbed: list[Prediction]) -> None:
    session = steady.open("letters", durability="always")
    restarts = durable.restart_at(lambda: session.position, MARKS)
    predictions = [session.step(tokens=token, logits=True) for token in inputs()]
    restarts.join(WAIT_SECONDS)
    assert bits(predictions) == bits(undisturbed)
    check_end(session)


@pytest.mark.parametrize("window", [1, 32])
def test_a_stream_across_restarts(
    durable: Restartable, steady: Client, undisturbed: list[Prediction], window: int
) -> None:
    session = steady.open("letters", durability="always")
    restarts = durable.restart_at(lambda: session.position, MARKS)
    predictions = list(session.stream(tokens=inputs(), logits=True, window=window))
    restarts.join(WAIT_SECONDS)
    assert bits(predictions) == bits(undisturbed)
    check_end(session)


def test_a_stream_across_restarts_with_asyncio(durable: Restartable, undisturbed: list[Prediction]) -> None:
    async def run() -> list[list[Prediction]]:
        async with AsyncClient(durable.address, retry=STUBBORN, timeout=WAIT_SECONDS) as client:
            sessions = [await client.open("letters", durability="always") for _ in range(3)]
            restarts = durable.restart_at(lambda: sessions[1].position, MARKS)
            async with client.stream(window=32) as stream:
                futures = [[stream.step(s, tokens=t, logits=True) for t in inputs()] for s in sessions]
                answers = [[await future for future in row] for row in futures]
            assert [(await s.describe()).position for s in sessions] == [STEPS] * 3
        await asyncio.to_thread(restarts.join, WAIT_SECONDS)
        return answers

    for answers in asyncio.run(run()):
        assert bits(answers) == bits(undisturbed)


def test_a_generation_across_restarts(durable: Restartable, steady: Client, client: Client) -> None:
    options: dict[str, Any] = {"max_tokens": STEPS, "temperature": 1.0, "seed": 11}
    with client.open("letters") as session:
        expected = list(session.generate("abc", **options))
    session = steady.open("letters", durability="always")
    restarts = durable.restart_at(lambda: session.position, MARKS)
    tokens = list(session.generate("abc", **options))
    restarts.join(WAIT_SECONDS)
    assert drawn(tokens) == drawn(expected)
    assert session.position == session.describe().position == STEPS + 2


def test_forks_and_rewinds_last(durable: Restartable, steady: Client, client: Client) -> None:
    session = steady.open("letters", durability="always", session_id="root")
    session.step(text="once upon a time")
    fork = session.fork()
    assert fork.describe().durability == "always"
    passing = session.fork(durability="none")
    imported = steady.import_session(session.export(), durability="always")
    session.rewind(4)
    durable.restart()
    assert steady.attach("root").position == 4
    with client.open("letters") as fresh, client.open("letters") as short:
        fresh.step(text="once upon a time")
        short.step(text="once")
        expected = fresh.step(text="x", logits=True)
        assert fork.step(text="x", logits=True) == expected
        assert imported.step(text="x", logits=True) == expected
        assert session.step(text="x", logits=True) == short.step(text="x", logits=True)
    with pytest.raises(SessionNotFoundError):
        passing.step(text="x")
    fork.rewind(0)
    assert fork.position == 0


def lose_steps(durable: Restartable, session: Session, use: Callable[[Session], object]) -> StepsLostError:
    """Have a server killed before it stored all, then use the session."""
    for _ in range(20):
        session.step(tokens=inputs(5))
        durable.restart()
        before = session.position
        try:
            use(session)
        except StepsLostError as error:
            return error
        session.rewind(before)
    raise AssertionError("in 20 times a second came to an end within 5 steps")


USES: list[Any] = [
    pytest.param(lambda s: s.step(text="x"), id="step"),
    pytest.param(lambda s: s.score(text="xy"), id="score"),
    pytest.param(lambda s: list(s.generate("x", max_tokens=3)), id="generate"),
    pytest.param(lambda s: list(s.stream(text="xyz", window=3)), id="stream"),
]


@pytest.mark.parametrize("use", USES)
def test_lost_steps_are_told_and_sent_again(
    durable: Restartable, steady: Client, client: Client, use: Callable[[Session], object]
) -> None:
    session = steady.open("letters", durability="everysec")
    error = lose_steps(durable, session, use)
    expected = error.expected_position
    assert error.reason == "STEPS_LOST"
    assert expected is not None
    assert session.position == session.describe().position == expected
    assert error.position is not None
    assert expected < error.position
    with client.open("letters") as fresh:
        for whole in range(error.position // 5):
            tokens = inputs(5)
            fresh.step(tokens=tokens)
            if 5 * whole >= expected:  # a request is stored as a whole
                session.step(tokens=tokens)
        assert session.position == error.position
        assert session.step(text="x", logits=True) == fresh.step(text="x", logits=True)


def test_what_was_sent_ahead_of_lost_steps_is_not_applied(durable: Restartable, steady: Client) -> None:
    session = steady.open("letters", durability="everysec")

    def use(session: Session) -> None:
        with steady.stream(window=4) as stream:
            futures = [stream.step(session, text="x") for _ in range(8)]
        raised = [future.exception() for future in futures]
        if raised[0] is not None:
            assert [type(error) for error in raised] == [StepsLostError, *[StepSkippedError] * 7]
            raise raised[0]

    error = lose_steps(durable, session, use)
    assert session.position == session.describe().position == error.expected_position


def test_a_session_whose_model_is_gone(durable: Restartable, steady: Client, tmp_path: Path) -> None:
    session = steady.open("letters", "1", durability="always")
    session.step(text="abc")
    write_model(tmp_path / "models", "letters", 1, characters_spec("lstm"), seed=77)
    durable.restart(models=tmp_path / "models")
    with pytest.raises(SessionModelError, match="other weights") as caught:
        session.step(text="d")
    assert (caught.value.model, caught.value.version) == ("letters", "1")
    assert caught.value.session_id == session.session_id
    durable.restart()
    assert session.step(text="d").position == 4
