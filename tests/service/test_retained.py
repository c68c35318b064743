"""Requests of long ago sent again: the answer is that of the first time, as far as the session retains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keepgate_protos.v1 import sequences_pb2 as pb
from support.inputs import EVERYTHING
from support.servers import ServerProcess
from support.wire import Wire, connect, failure, step, take_apart

DRAWN = pb.Sampling(temperature=1.2, top_k=12, top_p=0.95, seed=99)
PARTS = ["now is", " the ", "w", "inter", " of our discontent, made glorious summer", " by", " this", " sun"]


@pytest.fixture(scope="module")
def paging(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with two slots a model, whose sessions' histories have a state each eight steps."""
    settings = {"models": repository, "slots": 2, "snapshot_steps": 8, "retained_steps": 4096}
    process = ServerProcess(tmp_path_factory.mktemp("paging"), settings).wait_ready()
    with connect(process.address) as wire:
        yield wire
    assert process.stop() == 0, process.log()
    assert '"level": "error"' not in process.log()


@pytest.fixture(params=["resident", "paged out"])
def disturb(request: pytest.FixtureRequest, wire: Wire, paging: Wire) -> tuple[Wire, Callable[[], None]]:
    """A server, and what makes it forget what it has at hand, if it can be made to."""
    if request.param == "resident":
        return wire, lambda: None

    def others() -> None:
        for _ in range(3):
            session = paging.open()
            paging.step(session, "pages others out")
            paging.close(session)

    return paging, others


Disturb = tuple[Wire, Callable[[], None]]


def again(answer: Any) -> Any:
    """The answer to the same request sent once more."""
    replay = type(answer)()
    replay.CopyFrom(answer)
    replay.replayed = True
    return replay


def test_any_step_may_be_sent_again(disturb: Disturb) -> None:
    wire, forget = disturb
    session = wire.open()
    requests, position = [], 0
    for part in PARTS:
        requests.append(step(session, part, position, sampling=DRAWN, outputs=EVERYTHING))
        position += len(part)
    answers = [wire.sequences.Step(request) for request in requests]
    for _ in range(2):
        forget()
        for request, answer in reversed(list(zip(requests, answers, strict=True))):
            assert wire.sequences.Step(request) == again(answer)
    assert wire.position(session) == position
    fresh = wire.open()
    wire.step(fresh, "".join(PARTS))
    expected = wire.step(fresh, "x", position, outputs=EVERYTHING)
    assert wire.step(session, "x", position, outputs=EVERYTHING) == expected


def test_any_score_may_be_sent_again(disturb: Disturb) -> None:
    wire, forget = disturb
    session = wire.open()
    first = wire.score(session, PARTS[0], 0, per_token=True)
    second = wire.score(session, PARTS[4], 6, per_token=True)
    wire.step(session, "more", 6 + len(PARTS[4]))
    forget()
    assert wire.score(session, PARTS[4], 6, per_token=True) == again(second)
    assert wire.score(session, PARTS[0], 0, per_token=True) == again(first)
    assert failure(lambda: wire.step(session, PARTS[0], 0)).reason == "STEP_MISMATCH"


def test_any_generation_may_be_sent_again(disturb: Disturb) -> None:
    wire, forget = disturb
    session = wire.open()
    options: dict[str, Any] = {"max_tokens": 30, "sampling": DRAWN, "coalesce": 7}
    first = wire.generate(session, PARTS[0], 0, **options)
    second = wire.generate(session, [first[-1].tokens[-1]], 35, **options)
    wire.step(session, "more", 65)
    forget()
    assert wire.generate(session, PARTS[0], 0, **options) == first
    assert wire.generate(session, [first[-1].tokens[-1]], 35, **options) == second
    assert wire.position(session) == 69
    for other in ({"max_tokens": 31}, {"stop_tokens": [3]}, {"sampling": pb.Sampling(seed=1)}):
        changed = {**options, **other}
        refused = failure(lambda changed=changed: wire.generate(session, PARTS[0], 0, **changed))  # type: ignore[misc]
        assert refused.reason == "STEP_MISMATCH"


def test_a_generation_cut_off_goes_on_after_it_was_forgotten(disturb: Disturb) -> None:
    wire, forget = disturb
    session, whole = wire.open(), wire.open()
    options: dict[str, Any] = {"max_tokens": 3000, "sampling": DRAWN}
    expected = wire.generate(whole, PARTS[0], 0, coalesce=3000, **options)
    request = step(session, PARTS[0], 0)
    call = wire.sequences.Generate(
        pb.GenerateRequest(session_id=session, position=0, prompt=request.inputs, **options)
    )
    begun = [next(call).tokens[0] for _ in range(20)]
    call.cancel()
    assert begun == expected[0].tokens[:20]
    assert wire.position(session) < 3005
    forget()
    assert wire.generate(session, PARTS[0], 0, coalesce=3000, **options) == expected
    assert wire.position(session) == 3005


def test_a_stream_answers_again_what_is_retained(disturb: Disturb) -> None:
    wire, forget = disturb
    session = wire.open()
    letters = "".join(PARTS)
    requests = [step(session, letter, i, outputs=EVERYTHING) for i, letter in enumerate(letters)]
    answers = [response.step for response in wire.stream(requests)]
    forget()
    more = [step(session, "x", len(letters)), step(session, "y", len(letters) + 1)]
    replayed = [response.step for response in wire.stream(requests[5:] + more)]
    assert replayed[:-2] == [again(answer) for answer in answers[5:]]
    assert [answer.replayed for answer in replayed[-2:]] == [False, False]
    assert wire.position(session) == len(letters) + 2


def test_other_requests_at_a_retained_position(disturb: Disturb) -> None:
    wire, forget = disturb
    session = wire.open()
    wire.step(session, "abcd", 0)
    wire.step(session, "efgh", 4, sampling=DRAWN)
    wire.step(session, "i", 8)
    forget()
    others: list[Callable[[], Any]] = [
        lambda: wire.step(session, "abcx", 0),
        lambda: wire.step(session, "abc", 0),
        lambda: wire.step(session, "abcde", 0),
        lambda: wire.step(session, "abcd", 0, outputs=EVERYTHING),
        lambda: wire.step(session, "abcd", 0, sampling=DRAWN),
        lambda: wire.step(session, "efgh", 4),
        lambda: wire.score(session, "abcd", 0),
        lambda: wire.generate(session, "abcd", 0, max_tokens=1),
    ]
    for other in others:
        refused = failure(other)
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "STEP_MISMATCH")
        assert refused.metadata["expected_position"] == "9"
    for inside in (1, 2, 3, 5, 7):
        for call in (wire.step, wire.score):
            refused = failure(lambda inside=inside, call=call: call(session, "x", inside))  # type: ignore[misc]
            assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "POSITION_MISMATCH")
            assert refused.metadata["expected_position"] == "9"
        (response,) = wire.stream([step(session, "x", inside)])
        assert take_apart(response.error).reason == "POSITION_MISMATCH"
        refused = failure(lambda inside=inside: wire.generate(session, "x", inside, max_tokens=1))  # type: ignore[misc]
        assert refused.reason == "POSITION_MISMATCH"
    ahead = failure(lambda: wire.step(session, "x", 10))
    assert (ahead.reason, ahead.metadata["expected_position"]) == ("POSITION_MISMATCH", "9")
    assert wire.position(session) == 9


def test_retries_beside_new_steps(disturb: Disturb) -> None:
    """Retries of long ago, many at once and beside new steps, leave the session as it is."""
    wire, forget = disturb
    session, fresh = wire.open(), wire.open()
    text = "".join(PARTS)
    first = wire.step(session, text, 0, outputs=EVERYTHING)
    wire.step(session, "x", len(text))
    forget()
    old = [wire.sequences.Step.future(step(session, text, 0, outputs=EVERYTHING)) for _ in range(30)]
    new = wire.stream(step(session, "y", len(text) + 1 + i) for i in range(5))
    assert all(call.result() == again(first) for call in old)
    assert [response.step.position for response in new] == [len(text) + 2 + i for i in range(5)]
    wire.step(fresh, text + "xyyyyy")
    assert wire.step(session, "z", outputs=EVERYTHING) == wire.step(fresh, "z", outputs=EVERYTHING)
