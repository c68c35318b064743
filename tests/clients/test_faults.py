"""Real faults on real connections: no step is lost, none is applied twice, and every answer is right."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from keepgate_client import (
    AnswerLostError,
    AsyncClient,
    Client,
    DeadlineExceededError,
    DrainingError,
    Prediction,
    RetryPolicy,
    Session,
    SessionGoneError,
    SessionNotFoundError,
    StepSkippedError,
    UnreachableError,
)
from support.proxy import Proxy
from support.servers import ServerProcess

STEPS = 120
STUBBORN = RetryPolicy(attempts=100, initial_backoff=0.01, max_backoff=0.1)
"""Backoff is short, for the network of these tests breaks every few answers."""


def inputs() -> list[int]:
    return [i * 7 % 30 for i in range(STEPS)]


@pytest.fixture(scope="module")
def undisturbed(server: ServerProcess) -> list[Prediction]:
    """What the steps of `inputs` answer where nothing goes wrong."""
    with Client(server.address) as client, client.open("letters") as session:
        return [session.step(tokens=token, logits=True) for token in inputs()]


@pytest.fixture
def shaky(proxy: Proxy) -> Proxy:
    """Resets each connection in the middle of some answer."""
    rng = random.Random(5)
    proxy.budget = lambda: rng.randint(200, 2500)
    return proxy


def values(predictions: list[Prediction]) -> list[tuple[object, ...]]:
    """All but `replayed`, which may differ where a connection broke."""
    return [
        (p.position, p.token, p.log_probability, p.logits.tobytes() if p.logits is not None else None)
        for p in predictions
    ]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_steps_over_a_shaky_connection(shaky: Proxy, undisturbed: list[Prediction]) -> None:
    with Client(shaky.address, retry=STUBBORN) as client:
        session = client.open("letters")
        predictions = [session.step(tokens=token, logits=True) for token in inputs()]
        assert values(predictions) == values(undisturbed)
        assert session.describe().position == STEPS
        assert session.close() == STEPS
    assert shaky.connections > 5


def test_steps_over_a_shaky_connection_with_asyncio(shaky: Proxy, undisturbed: list[Prediction]) -> None:
    async def run() -> list[Prediction]:
        async with (
            AsyncClient(shaky.address, retry=STUBBORN) as client,
            client.open("letters") as session,
        ):
            return [await session.step(tokens=token, logits=True) for token in inputs()]

    assert values(asyncio.run(run())) == values(undisturbed)
    assert shaky.connections > 5


def test_stream_over_a_shaky_connection(shaky: Proxy, undisturbed: list[Prediction]) -> None:
    with Client(shaky.address, retry=STUBBORN) as client, client.open("letters") as session:
        predictions = list(session.stream(tokens=inputs(), logits=True))
        assert values(predictions) == values(undisturbed)
        assert session.position == STEPS
    assert shaky.connections > 5


def test_stream_over_a_shaky_connection_with_asyncio(shaky: Proxy, undisturbed: list[Prediction]) -> None:
    async def run() -> list[list[Prediction]]:
        async with AsyncClient(shaky.address, retry=STUBBORN) as client:
            sessions = [await client.open("letters") for _ in range(3)]
            async with client.stream() as stream:
                futures = [[stream.step(s, tokens=t, logits=True) for t in inputs()] for s in sessions]
                answers = [[await f for f in row] for row in futures]
            assert [(await s.describe()).position for s in sessions] == [STEPS] * 3
            return answers

    for answers in asyncio.run(run()):
        assert values(answers) == values(undisturbed)
    assert shaky.connections > 5


def test_steps_sent_ahead_over_a_shaky_connection(shaky: Proxy, undisturbed: list[Prediction]) -> None:
    with Client(shaky.address, retry=STUBBORN) as client, client.open("letters") as session:
        with client.stream(window=8) as stream:
            futures = [stream.step(session, tokens=token, logits=True) for token in inputs()]
        predictions = [future.result() for future in futures]
        assert values(predictions) == values(undisturbed)
        assert any(prediction.replayed for prediction in predictions)
        assert session.position == session.describe().position == STEPS
    assert shaky.connections > 5


def test_steps_that_the_server_does_not_retain_may_lose_answers_but_no_step(
    shaky: Proxy, start_server: Callable[..., ServerProcess], undisturbed: list[Prediction]
) -> None:
    shaky.upstream = start_server(retained_steps=0, snapshot_steps=1).address
    with Client(shaky.address, retry=STUBBORN) as client, client.open("letters") as session:
        with client.stream(window=8) as stream:
            futures = [stream.step(session, tokens=token, logits=True) for token in inputs()]
        lost = 0
        for future, expected in zip(futures, undisturbed, strict=True):
            error = future.exception()
            if error is None:
                assert values([future.result()]) == values([expected])
            else:
                assert isinstance(error, AnswerLostError)
                lost += 1
        assert 0 < lost < STEPS
        assert session.position == session.describe().position == STEPS


@pytest.mark.parametrize("coalesce", [1, 7])
def test_generation_over_a_shaky_connection(shaky: Proxy, client: Client, coalesce: int) -> None:
    def generate(session: Session) -> list[tuple[object, ...]]:
        tokens = session.generate("abc", max_tokens=300, temperature=1.0, seed=11, coalesce=coalesce)
        return [(t.token, t.position, t.text, t.finish_reason) for t in tokens]

    with client.open("letters") as session:
        expected = generate(session)
    # The server streams from the first token each time, so each connection has to last a bit longer.
    growing = iter(range(400, 10**6, 400))
    shaky.budget = lambda: next(growing)
    with Client(shaky.address, retry=STUBBORN) as breaking, breaking.open("letters") as session:
        assert generate(session) == expected
        assert session.position == session.describe().position == 302
    assert shaky.connections > 3


def lose_answer(proxy: Proxy, session: Session, direct: Client, call: Callable[[], object]) -> Future[object]:
    """Start a call whose request is applied and whose answer is lost with the connection."""
    before = direct.attach(session.session_id).position
    proxy.swallow_answers()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(call)
        wait_until(lambda: direct.attach(session.session_id).position > before)
        assert not result.done()
        proxy.reset()
    return result


def test_step_whose_answer_is_lost_is_replayed(proxy: Proxy, client: Client) -> None:
    with Client(proxy.address) as behind, behind.open("letters") as session, client.open("letters") as twin:
        session.step(text="ab")
        answer = lose_answer(proxy, session, client, lambda: session.step(text="cd", hidden=True)).result()
        assert isinstance(answer, Prediction)
        assert answer.replayed
        twin.step(text="ab")
        expected = twin.step(text="cd", hidden=True)
        assert [h.tobytes() for h in answer.hidden] == [h.tobytes() for h in expected.hidden]
        assert session.position == 4
        assert session.step(text="e", logits=True) == twin.step(text="e", logits=True)


def test_score_whose_answer_is_lost_is_replayed(proxy: Proxy, client: Client) -> None:
    with Client(proxy.address) as behind, behind.open("letters") as session:
        lose_answer(proxy, session, client, lambda: session.score(text="hello")).result()
        assert session.position == session.describe().position == 5


def test_moves_whose_answers_are_lost(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    with (
        Proxy(server.address) as proxy,
        Client(server.address) as client,
        Client(proxy.address) as behind,
        ThreadPoolExecutor(1) as pool,
    ):
        session = behind.open("ids")
        session.step(tokens=[1, 2, 3, 4])
        blob = session.export()
        started = (session.fork, lambda: behind.import_session(blob))
        for count, start in enumerate(started, 2):
            proxy.swallow_answers()
            starting = pool.submit(start)
            wait_until(lambda count=count: len(list(client.sessions("ids"))) == count)  # type: ignore[misc]
            proxy.reset()
            new = starting.result()
            assert len(list(client.sessions("ids"))) == count
            assert new.position == 4
            assert new.step(tokens=5).position == 5
        proxy.swallow_answers()
        rewinding = pool.submit(session.rewind, 2)
        wait_until(lambda: client.attach(session.session_id).position == 2)
        proxy.reset()
        assert rewinding.result().position == session.position == 2


def test_open_and_close_whose_answers_are_lost(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    with (
        Proxy(server.address) as proxy,
        Client(server.address) as client,
        Client(proxy.address) as behind,
        ThreadPoolExecutor(1) as pool,
    ):
        behind.models()  # connects
        proxy.swallow_answers()
        opening = pool.submit(behind.open, "ids")
        wait_until(lambda: any(True for _ in client.sessions("ids")))
        proxy.reset()
        session = opening.result()
        assert [info.session_id for info in client.sessions("ids")] == [session.session_id]
        session.step(tokens=[1, 2, 3])
        proxy.swallow_answers()
        closing = pool.submit(session.close)
        wait_until(lambda: not any(True for _ in client.sessions("ids")))
        proxy.reset()
        assert closing.result() == 3


def test_client_waits_for_a_server_that_comes_back(proxy: Proxy) -> None:
    with Client(proxy.address) as client, client.open("letters") as session:
        session.step(text="a")
        proxy.refuse()
        proxy.cut()
        back = threading.Timer(0.5, proxy.listen)
        back.start()
        assert session.step(text="b").position == 2
        back.join()


def test_retries_are_bounded(proxy: Proxy) -> None:
    with Client(proxy.address, retry=RetryPolicy(attempts=3)) as client:
        session = client.open("letters")
        stream = client.stream()
        assert stream.step(session, text="a").result().position == 1
        proxy.refuse()
        proxy.reset()
        with pytest.raises(UnreachableError):
            stream.step(session, text="b").result()
        with pytest.raises(UnreachableError):
            session.step(text="b")
        with pytest.raises(UnreachableError):
            list(session.generate("b", max_tokens=3))
        assert session.position == 1
        proxy.listen()
        # Everything works again, the stream included.
        wait_until(lambda: reachable(client))
        assert stream.step(session, text="b").result().position == 2
        stream.close()
        assert [t.position for t in session.generate("c", max_tokens=2)] == [3, 4]
        session.close()


def reachable(client: Client) -> bool:
    try:
        client.models()
    except UnreachableError:
        return False
    return True


def test_late_answers(proxy: Proxy) -> None:
    with Client(proxy.address) as client, client.open("letters") as session:
        proxy.delay = 0.5
        with pytest.raises(DeadlineExceededError):
            session.step(text="a", timeout=0.2)
        with client.stream() as stream:
            future = stream.step(session, text="a", timeout=0.2)
            behind = stream.step(session, text="b", timeout=0.2)
            with pytest.raises(DeadlineExceededError):
                future.result()
            with pytest.raises((DeadlineExceededError, StepSkippedError)):
                behind.result()
            assert session.position == 0
            proxy.delay = 0.0
            again = stream.step(session, text="a").result()
            assert (again.position, again.replayed) == (1, True)
        assert session.step(text="b").position == session.describe().position == 2


def test_restart_of_the_server_is_reported_as_loss(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    with Proxy(server.address) as proxy, Client(proxy.address) as client:
        session = client.open("letters")
        session.step(text="abc")
        server.kill()
        proxy.upstream = start_server().address
        with pytest.raises(SessionNotFoundError) as caught:
            session.step(text="d")
        assert isinstance(caught.value, SessionGoneError)
        assert caught.value.session_id == session.session_id


def test_draining_server(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    with Client(server.address, retry=RetryPolicy(attempts=2)) as client:
        session = client.open("letters")
        generation = session.generate("abc", max_tokens=3000, coalesce=10)
        first = next(generation)
        server.terminate()
        wait_until(lambda: "draining" in server.log())
        with pytest.raises((DrainingError, UnreachableError)):
            client.open("letters")
        # What runs is finished.
        tokens = [first, *generation]
        assert tokens[-1].position == 3002
        assert server.wait() == 0
