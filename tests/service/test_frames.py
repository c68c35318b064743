"""StreamFrames: whatever steps a session, a row or a message of its own, its bits are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from keepgate_protos.v1 import sequences_pb2 as pb
from support.frames import UNBOUND, OpenFrames, Row, row_of
from support.servers import ServerProcess
from support.wire import Failure, Wire, connect, failure, take_apart

SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 7}
VOCABULARY = {"letters": 30, "ids": 11}


@pytest.fixture(scope="module")
def cramped(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with five slots a model, and a state in every session's history each four steps."""
    settings = {"models": repository, "slots": 5, "snapshot_steps": 4, "retained_steps": 64}
    process = ServerProcess(tmp_path_factory.mktemp("cramped"), settings).wait_ready()
    with connect(process.address) as wire:
        yield wire
    assert process.stop() == 0, process.log()
    assert '"level": "error"' not in process.log()


def inputs_of(model: str, sessions: int, turn: int) -> Any:
    """Different ones for each session and turn."""
    rng = np.random.default_rng(turn)
    if model == "vectors":
        return rng.normal(size=(sessions, 3)).astype("<f4")
    return rng.integers(0, VOCABULARY[model], sessions, dtype="<u4")


def alone(wire: Wire, model: str, sessions: int, turns: int, seeds: bool = False) -> list[list[Row]]:
    """What sessions answer that are stepped by messages of their own, by turn."""
    names = [wire.open(model) for _ in range(sessions)]
    answers = []
    for turn in range(turns):
        inputs = inputs_of(model, sessions, turn)
        row = []
        for index, name in enumerate(names):
            value = inputs[index].tolist() if model == "vectors" else [int(inputs[index])]
            fields = {"sampling": pb.Sampling(seed=1000 + index, **SAMPLED)} if seeds else {}
            row.append(row_of(wire.step(name, value, turn, **fields)))
        answers.append(row)
    return answers


def together(
    wire: Wire, model: str, sessions: int, turns: int, seeds: bool = False
) -> tuple[list[list[Row]], list[str]]:
    """The same of sessions that are stepped as rows."""
    names = [wire.open(model) for _ in range(sessions)]
    call = OpenFrames(wire, outputs=2 if model == "vectors" else 0)
    fields = (
        {"sampling": pb.Sampling(**SAMPLED), "seeds": np.arange(1000, 1000 + sessions, dtype="<u8").tobytes()}
        if seeds
        else {}
    )
    handles, positions = call.bind(names, **fields)
    assert positions.tolist() == [0] * sessions
    answers = [call.step(handles, turn, inputs_of(model, sessions, turn)).rows for turn in range(turns)]
    assert call.finish() == []
    return answers, names


@pytest.mark.parametrize("model", ["letters", "ids", "vectors"])
@pytest.mark.parametrize("cramp", [False, True], ids=["slots for all", "few slots"])
def test_rows_are_steps(wire: Wire, cramped: Wire, model: str, cramp: bool) -> None:
    server = cramped if cramp else wire
    answers, names = together(server, model, 17, 11)
    assert answers == alone(server, model, 17, 11)
    assert [server.position(name) for name in names] == [11] * 17


@pytest.mark.parametrize("cramp", [False, True], ids=["slots for all", "few slots"])
def test_each_session_draws_with_its_seed(wire: Wire, cramped: Wire, cramp: bool) -> None:
    server = cramped if cramp else wire
    answers, _ = together(server, "letters", 9, 12, seeds=True)
    assert answers == alone(server, "letters", 9, 12, seeds=True)
    assert len({tuple(row.token for row in turn) for turn in answers}) > 1


def test_rows_sent_again_are_answered_again(wire: Wire) -> None:
    answers, names = together(wire, "letters", 5, 6)
    call = OpenFrames(wire)
    handles, positions = call.bind(names)
    assert positions.tolist() == [6] * 5
    for turn in (5, 2, 0):
        again = call.step(handles, turn, inputs_of("letters", 5, turn))
        assert again.rows == answers[turn]
        assert again.replayed == 5
    # Some are new, some are not.
    mixed = call.step(handles, [6, 5, 6, 5, 6], inputs_of("letters", 5, 5))
    assert [row.error for row in mixed.rows] == [None] * 5
    assert mixed.replayed == 2
    assert mixed.rows[1] == answers[5][1]
    assert [wire.position(name) for name in names] == [7, 6, 7, 6, 7]


def test_rows_of_a_step_that_never_was(wire: Wire) -> None:
    _, names = together(wire, "letters", 3, 4)
    call = OpenFrames(wire)
    handles, _ = call.bind(names)
    rows = call.step(handles, [3, 9, 4], (inputs_of("letters", 3, 3) + 1) % 30).rows
    other, ahead, good = rows
    assert other.error is not None
    assert other.error.reason == "STEP_MISMATCH"
    assert ahead.error is not None
    assert (ahead.error.reason, ahead.error.metadata["expected_position"]) == ("POSITION_MISMATCH", "4")
    assert (other.token, other.log_probability) == (0, 0.0)
    assert good.error is None
    assert [wire.position(name) for name in names] == [4, 4, 5]


def test_frames_under_way(wire: Wire) -> None:
    """Sent ahead of their answers, of the same sessions and of others."""
    expected = alone(wire, "letters", 6, 40)
    names = [wire.open() for _ in range(6)]
    call = OpenFrames(wire)
    handles, _ = call.bind(names)
    for turn in range(40):
        inputs = inputs_of("letters", 6, turn)
        call.post(handles[:2], turn, inputs[:2])
        call.post(handles[2:], turn, inputs[2:])
    answers = {answer.request_id: answer for answer in call.finish()}
    for turn in range(40):
        first, second = answers[2 + 2 * turn], answers[3 + 2 * turn]
        assert call.rows(first.frame, 2).rows + call.rows(second.frame, 4).rows == expected[turn]


def test_a_bound_session_is_that_calls_alone(wire: Wire) -> None:
    name, other = wire.open(), wire.open()
    call = OpenFrames(wire)
    handles, _ = call.bind([name, other])
    call.step(handles, 0, [3, 4])
    for refused in (
        lambda: wire.step(name, "x", 1),
        lambda: wire.score(name, "x", 1),
        lambda: wire.generate(name, "x", max_tokens=1),
    ):
        assert failure(refused).reason == "SESSION_IN_USE"
    (streamed,) = wire.stream([pb.StepRequest(session_id=name, position=1)])[:1]
    assert streamed.HasField("error")
    second = OpenFrames(wire)
    answer = second.ask(bind=pb.Bind(session_ids=[name]))
    assert take_apart(answer.bound.errors[0].status).reason == "SESSION_IN_USE"
    assert np.frombuffer(answer.bound.handles, "<u8").tolist() == [UNBOUND]
    # Given back one by one, or all at once.
    assert call.ask(unbind=pb.Unbind(handles=handles[:1].tobytes())).WhichOneof("result") == "unbound"
    assert wire.step(name, "x", 1).position == 2
    assert failure(lambda: wire.step(other, "x", 1)).reason == "SESSION_IN_USE"
    call.finish()
    assert wire.step(other, "x", 1).position == 2
    second.finish()


def test_what_happens_to_a_session_meanwhile(cramped: Wire) -> None:
    """Forked, taken back, exported: all see the rows that were applied, and the rows go on from there."""
    expected = alone(cramped, "letters", 3, 12)
    names = [cramped.open() for _ in range(3)]
    call = OpenFrames(cramped)
    handles, _ = call.bind(names)
    for turn in range(7):
        assert call.step(handles, turn, inputs_of("letters", 3, turn)).rows == expected[turn]
    fork = cramped.fork(names[0])
    assert cramped.position(fork) == 7
    assert cramped.rewind(names[1], 5) == 5
    copy = cramped.import_session(cramped.export(names[2])).session_id
    for turn in range(7, 12):
        inputs = inputs_of("letters", 3, turn)
        rows = call.step(handles[[0, 2]], turn, inputs[[0, 2]]).rows
        assert rows == [expected[turn][0], expected[turn][2]]
        assert row_of(cramped.step(fork, [int(inputs[0])], turn)) == expected[turn][0]
        assert row_of(cramped.step(copy, [int(inputs[2])], turn)) == expected[turn][2]
    for turn in range(5, 12):
        rows = call.step(handles[1], turn, inputs_of("letters", 3, turn)[1]).rows
        assert rows == [expected[turn][1]]
    assert [cramped.position(name) for name in names] == [12] * 3


def test_a_session_that_ends(wire: Wire) -> None:
    names = [wire.open() for _ in range(3)]
    brief = wire.open(idle_ttl=Duration(nanos=300_000_000))
    call = OpenFrames(wire)
    handles, _ = call.bind([*names, brief])
    call.step(handles, 0, [1, 2, 3, 4])
    assert wire.close(names[1]) == 1
    rows = call.step(handles[:3], 1, [1, 2, 3]).rows
    assert [row.error.reason if row.error else "" for row in rows] == ["", "SESSION_CLOSED", ""]
    while failure_of(call.step(handles[[0, 3]], [wire.position(names[0]), 9], [1, 2]).rows[1]) != (
        "SESSION_EXPIRED"
    ):
        pass  # it ends without the call's doing; the test's deadline bounds this
    assert call.ask(unbind=pb.Unbind(handles=handles.tobytes())).WhichOneof("result") == "unbound"
    # Handles are given anew.
    again, positions = call.bind([names[0]])
    assert again[0] in handles
    assert call.step(again, positions, [5]).rows[0].error is None


def failure_of(row: Row) -> str:
    return row.error.reason if row.error else ""


def test_rows_prolong_a_sessions_life(wire: Wire) -> None:
    name = wire.open(idle_ttl=Duration(seconds=2))
    call = OpenFrames(wire)
    handles, _ = call.bind([name])
    first = wire.describe(name).last_used
    for turn in range(300):
        assert failure_of(call.step(handles, turn, [turn % 30]).rows[0]) == ""
    assert wire.describe(name).last_used.ToNanoseconds() > first.ToNanoseconds()


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"handles": b""}, "frame.handles", "a multiple of 8, and more than 0"),
    ({"handles": bytes(7)}, "frame.handles", "7 bytes"),
    ({"positions": bytes(8)}, "frame.positions", "2 values of 8"),
    ({"tokens": bytes(4)}, "frame.tokens", "2 values of 4"),
    ({"tokens": np.array([1, 30], "<u4").tobytes()}, "frame.tokens[1]", "less than 30"),
    ({"features": bytes(24)}, "frame.features", "takes tokens"),
    ({"handles": np.array([0, 0], "<u8").tobytes()}, "frame.handles[0]", "each handle once"),
    ({"handles": np.array([0, 2], "<u8").tobytes()}, "frame.handles[1]", "a handle of a bound session"),
    ({"handles": np.array([0, UNBOUND], "<u8").tobytes()}, "frame.handles[1]", "a handle of a bound session"),
]


@pytest.mark.parametrize(("change", "field", "text"), MISTAKES)
def test_mistakes_in_a_frame(wire: Wire, change: dict[str, Any], field: str, text: str) -> None:
    names = [wire.open(), wire.open()]
    call = OpenFrames(wire)
    handles, _ = call.bind(names)
    good: dict[str, Any] = {
        "handles": handles.tobytes(),
        "positions": bytes(16),
        "tokens": np.array([1, 2], "<u4").tobytes(),
    }
    refused = call.ask(frame=pb.Frame(**{**good, **change}))
    error = take_apart(refused.error)
    assert (error.code, error.field) == ("INVALID_ARGUMENT", field)
    assert text in error.message
    assert call.ask(frame=pb.Frame(**good)).WhichOneof("result") == "frame"
    assert [wire.position(name) for name in names] == [1, 1]


def test_mistakes_in_features(wire: Wire) -> None:
    call = OpenFrames(wire, outputs=2)
    handles, _ = call.bind([wire.open("vectors"), wire.open("vectors")])
    for value in (np.nan, np.inf, 1e38):
        features = np.ones((2, 3), "<f4")
        features[1, 2] = value
        error = take_apart(call.ask(frame=call.frame(handles, 0, features)).error)
        assert error.field == "frame.features[1][2]"
    error = take_apart(call.ask(frame=pb.Frame(handles=handles.tobytes(), positions=bytes(16))).error)
    assert error.field == "frame.features"


def test_mistakes_in_binding(wire: Wire) -> None:
    call = OpenFrames(wire)

    def refused(**fields: Any) -> Failure:
        return take_apart(call.ask(**fields).error)

    assert refused().field == "kind"
    assert refused(frame=pb.Frame(handles=bytes(8))).field == "frame.handles"
    assert refused(unbind=pb.Unbind(handles=bytes(8))).field == "unbind.handles"
    assert refused(bind=pb.Bind()).field == "bind.session_ids"
    assert refused(bind=pb.Bind(session_ids=["a"], seeds=bytes(7))).field == "bind.seeds"
    good, features = wire.open(), wire.open("vectors")
    bad = pb.Sampling(temperature=-1)
    assert refused(bind=pb.Bind(session_ids=[good], sampling=bad)).field == "bind.sampling.temperature"
    answer = call.ask(bind=pb.Bind(session_ids=["nobody", good, features, good]))
    reasons = {error.row: take_apart(error.status) for error in answer.bound.errors}
    assert (reasons[0].reason, reasons[2].field) == ("SESSION_NOT_FOUND", "bind.session_ids[2]")
    handles = np.frombuffer(answer.bound.handles, "<u8")
    assert handles[1] == handles[3] != UNBOUND
    assert call.step(handles[1], 0, [3]).rows[0].error is None


def test_drain(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    with connect(server.address) as wire:
        names = [wire.open() for _ in range(8)]
        call = OpenFrames(wire)
        handles, _ = call.bind(names)
        for turn in range(20):
            call.step(handles, turn, inputs_of("letters", 8, turn))
        server.terminate()
        error = failure(lambda: list(call.call))
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
    assert server.wait() == 0
    assert '"level": "error"' not in server.log()


@pytest.mark.parametrize("durability", ["everysec", "always"])
def test_killed(start_server: Callable[..., ServerProcess], tmp_path: Path, durability: str) -> None:
    settings = {"store": f"sqlite:{tmp_path}/sessions.db", "durability": durability, "snapshot_steps": 8}
    server = start_server(**settings)
    with connect(server.address) as wire:
        expected = alone(wire, "letters", 5, 30)
        names = [wire.open() for _ in range(5)]
        call = OpenFrames(wire)
        handles, _ = call.bind(names)
        for turn in range(20):
            assert call.step(handles, turn, inputs_of("letters", 5, turn)).rows == expected[turn]
        if durability == "everysec":  # rows are stored like steps, without a step that asks for it
            while wire.describe(names[0]).durable_position < 20:
                pass
        server.kill()
    server = start_server(**settings)
    with connect(server.address) as wire:
        call = OpenFrames(wire)
        handles, positions = call.bind(names)
        assert positions.tolist() == [20] * 5
        assert call.step(handles, 19, inputs_of("letters", 5, 19)).rows == expected[19]
        for turn in range(20, 30):
            assert call.step(handles, turn, inputs_of("letters", 5, turn)).rows == expected[turn]
