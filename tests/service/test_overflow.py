"""A state that overflows is lost, and said to be, while the other sessions go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from keepgate.models.format import save_model
from keepgate_kernels import ModelSpec
from keepgate_protos.v1 import sequences_pb2 as pb
from support.frames import OpenFrames
from support.random_models import feature_spec, random_tensors, token_spec
from support.servers import ServerProcess
from support.wire import DEADLINE, Failure, Wire, connect, failure, inputs, step, take_apart

GROWS = 100
"""Inputs after which a state that grows tenfold each time is beyond float32."""


def write_growing(repository: Path, name: str, spec: ModelSpec) -> None:
    """A relu model each of whose units becomes ten times the sum of all with each input."""
    tensors = {key: np.abs(values) for key, values in random_tensors(spec).items()}
    tensors["layers.0.weight_hh"][:] = 10.0
    save_model(repository / name / "1" / "model.safetensors", spec, tensors)


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("growing")
    write_growing(directory / "models", "vectors", feature_spec("rnn_relu", size=1))
    write_growing(directory / "models", "tokens", token_spec("rnn_relu"))
    server = ServerProcess(directory / "server", {"models": directory / "models", "max_sessions": 2})
    yield server.wait_ready()
    assert server.stop() == 0
    assert '"level": "error"' not in server.log()


@pytest.fixture
def wire(growing: ServerProcess) -> Iterator[Wire]:
    with connect(growing.address) as connection:
        yield connection


def is_overflow(error: Failure) -> None:
    assert (error.code, error.reason) == ("OUT_OF_RANGE", "NOT_FINITE")
    assert "the session's state has overflowed and the session is lost" in error.message


def generate(wire: Wire, session: str) -> None:
    request = pb.GenerateRequest(session_id=session, prompt=inputs([1]), max_tokens=GROWS)
    list(wire.sequences.Generate(request, timeout=DEADLINE))


CALLS: list[tuple[str, Callable[[Wire, str], object]]] = [
    ("vectors", lambda wire, session: wire.step(session, [1.0] * GROWS, 0)),
    ("vectors", lambda wire, session: [wire.step(session, [1.0]) for _ in range(GROWS)]),
    ("tokens", lambda wire, session: wire.step(session, [1] * GROWS, 0)),
    ("tokens", lambda wire, session: wire.score(session, [1] * GROWS, 0)),
    ("tokens", generate),
]


@pytest.mark.parametrize(("model", "call"), CALLS)
def test_an_overflow_ends_the_session(wire: Wire, model: str, call: Callable[[Wire, str], object]) -> None:
    session, bystander = wire.open(model), wire.open(model)
    one = [1.0] if model == "vectors" else [1]
    wire.step(bystander, one, 0)
    is_overflow(failure(lambda: call(wire, session)))
    assert failure(lambda: wire.step(session, one)).reason == "SESSION_LOST"
    assert wire.step(bystander, one, 1).position == 2
    # Its slot is free, and what comes next in it starts from zero.
    following = wire.open(model)
    first = wire.step(following, one, 0)
    wire.close(bystander)
    other = wire.open(model)
    assert wire.step(other, one, 0) == first
    wire.close(following)
    wire.close(other)


def test_a_score_on_no_session_overflows(wire: Wire) -> None:
    reference = pb.ModelReference(name="tokens")
    for _ in range(3):  # it gives its slot back each time
        is_overflow(
            failure(
                lambda: wire.sequences.Score(pb.ScoreRequest(model=reference, inputs=inputs([1] * GROWS)))
            )
        )


def test_what_waits_behind_an_overflow_fails_too(wire: Wire) -> None:
    session, bystander = wire.open("vectors"), wire.open("vectors")
    requests = [step(session, [1.0] * 5) for _ in range(200)]
    requests.append(step(bystander, [1.0], 0))
    answers = wire.stream(requests)
    mine = [answer for answer in answers if answer.session_id == session]
    assert [answer.request_id for answer in mine] == list(range(200))
    applied = [answer.HasField("step") for answer in mine]
    assert applied == sorted(applied, reverse=True)
    assert 0 < sum(applied) <= GROWS // 5
    errors = [take_apart(answer.error) for answer in mine[sum(applied) :]]
    is_overflow(errors[0])
    assert {error.reason for error in errors} <= {"NOT_FINITE", "SESSION_LOST"}
    (other,) = [answer for answer in answers if answer.session_id == bystander]
    assert other.step.position == 1
    wire.close(bystander)


@pytest.mark.parametrize("model", ["vectors", "tokens"])
def test_rows_that_overflow_are_lost_alone(wire: Wire, model: str) -> None:
    call = OpenFrames(wire, outputs=2 if model == "vectors" else 0)
    lost = wire.open(model)
    well = wire.open(model)
    handles, _ = call.bind([lost, well])
    inputs: list[object] = [[[1.0]], [[0.0]]] if model == "vectors" else [1, 1]
    is_lost = False
    for turn in range(GROWS):
        rows = call.step(handles[:1], turn, inputs[:1]).rows
        if rows[0].error is not None:
            is_lost = True
            break
    assert is_lost
    assert rows[0].error is not None
    is_overflow(rows[0].error)
    both = call.step(handles, 0, inputs).rows
    assert [row.error.reason if row.error else "" for row in both] == ["SESSION_LOST", ""]
    assert failure(lambda: wire.position(lost)).reason == "SESSION_LOST"
    call.finish()
    wire.close(well)
