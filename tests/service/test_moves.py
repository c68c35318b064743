"""Fork and Rewind over a socket: whatever a session went through, its bits are those of one that did not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_status import rpc_status
from keepgate_protos.v1 import sequences_pb2 as pb
from support.inputs import EVERYTHING, MODELS, TEXT, outputs, values
from support.servers import ServerProcess
from support.wire import DEADLINE, Failure, Wire, connect, failure, step, take_apart

LONG = TEXT * 51
"""16 of them are less than a server lets wait."""
ATTEMPTS = 50


@pytest.fixture(scope="module")
def cramped(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with two slots a model, and a state in every session's history each four steps."""
    settings = {"models": repository, "slots": 2, "snapshot_steps": 4, "retained_steps": 64}
    process = ServerProcess(tmp_path_factory.mktemp("cramped"), settings).wait_ready()
    with connect(process.address) as wire:
        yield wire
    assert process.stop() == 0, process.log()
    assert '"level": "error"' not in process.log()


@pytest.mark.parametrize(("model", "version"), MODELS)
@pytest.mark.parametrize("first", ["the session", "its fork"])
def test_a_fork_goes_on_as_the_session_would(wire: Wire, model: str, version: str, first: str) -> None:
    whole = wire.open(model, version=version)
    session = wire.open(model, version=version)
    for part in (whole, session):
        wire.step(part, values(model, 9))
    fork = wire.fork(session)
    assert wire.position(fork) == 9
    expected = [wire.step(whole, values(model, 1, i), 9 + i, outputs=outputs(model)) for i in range(5)]
    for each in (session, fork) if first == "the session" else (fork, session):
        went_on = [wire.step(each, values(model, 1, i), 9 + i, outputs=outputs(model)) for i in range(5)]
        assert went_on == expected


def test_forks_go_different_ways(cramped: Wire) -> None:
    """More of them than slots, some of forks, all made before any is stepped."""
    root = cramped.open()
    cramped.step(root, TEXT[:10])
    forks = [cramped.fork(root) for _ in range(10)]
    forks += [cramped.fork(fork) for fork in forks]
    for index, fork in enumerate(forks):
        cramped.step(fork, TEXT[index : index + 7])
    for index, fork in reversed(list(enumerate(forks))):
        fresh = cramped.open()
        cramped.step(fresh, TEXT[:10] + TEXT[index : index + 7])
        expected = cramped.step(fresh, "x", outputs=EVERYTHING)
        assert cramped.step(fork, "x", outputs=EVERYTHING) == expected
    assert cramped.position(root) == 10


def test_a_fork_has_the_history(wire: Wire) -> None:
    session = wire.open()
    first = wire.step(session, TEXT[:10], 0, outputs=EVERYTHING)
    wire.step(session, "y", 10)
    fork = wire.fork(session)
    again = wire.step(fork, TEXT[:10], 0, outputs=EVERYTHING)
    assert again.replayed
    assert again.prediction == first.prediction
    assert wire.rewind(fork, 4) == 4
    assert wire.position(session) == 11
    fresh = wire.open()
    wire.step(fresh, TEXT[:4])
    assert wire.step(fork, "x", 4, outputs=EVERYTHING) == wire.step(fresh, "x", 4, outputs=EVERYTHING)


def test_a_fork_outlives_its_session(wire: Wire) -> None:
    session, fresh = wire.open(), wire.open()
    for each in (session, fresh):
        wire.step(each, TEXT[:10])
    fork = wire.fork(session)
    wire.close(session)
    assert wire.step(fork, "x", outputs=EVERYTHING) == wire.step(fresh, "x", outputs=EVERYTHING)


def test_what_a_fork_is_told(wire: Wire) -> None:
    session = wire.open(idle_ttl=Duration(seconds=77))
    assert wire.describe(wire.fork(session)).idle_ttl.seconds == 77
    fork = wire.fork(session, fork_id="my-fork", idle_ttl=Duration(seconds=88))
    assert fork == "my-fork"
    assert wire.describe(fork).idle_ttl.seconds == 88
    assert failure(lambda: wire.fork(session, fork_id="my-fork")).reason == "SESSION_EXISTS"
    assert failure(lambda: wire.fork(session, fork_id="my fork")).reason == "INVALID_ARGUMENT"
    assert failure(lambda: wire.fork(session, idle_ttl=Duration())).field == "idle_ttl"
    assert failure(lambda: wire.fork("nobody")).reason == "SESSION_NOT_FOUND"
    no_store = failure(lambda: wire.fork(session, durability=pb.DURABILITY_ALWAYS))
    assert (no_store.reason, no_store.field) == ("INVALID_ARGUMENT", "durability")


def test_forks_count_as_sessions(start_server: Callable[..., ServerProcess]) -> None:
    with connect(start_server(max_sessions=2).address) as wire:
        session = wire.open()
        fork = wire.fork(session)
        assert failure(lambda: wire.fork(session)).reason == "SESSIONS_EXHAUSTED"
        wire.close(fork)
        wire.step(wire.fork(session), "a")


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(("model", "version"), MODELS)
def test_rewind_to_every_position(wire: Wire, cramped: Wire, model: str, version: str, paged: bool) -> None:
    """Of a prompt and of single steps, from the last to the first; and on from there."""
    server = cramped if paged else wire
    session = server.open(model, version=version)
    rows = values(model, 30)
    server.step(session, slice_of(rows, 0, 20))
    for i in range(20, 30):
        server.step(session, slice_of(rows, i, i + 1))
    following = values(model, 2, seed=9)
    for position in reversed(range(31)):
        assert server.rewind(session, position) == position
        if paged:
            for _ in range(2):
                server.step(server.open(model, version=version), following)
        fresh = server.open(model, version=version)
        if position:
            server.step(fresh, slice_of(rows, 0, position))
        expected = server.step(fresh, following, position, outputs=outputs(model))
        assert server.step(session, following, position, outputs=outputs(model)) == expected


def slice_of(rows: pb.Inputs, start: int, end: int) -> pb.Inputs:
    if rows.WhichOneof("kind") == "features":
        return pb.Inputs(features=pb.Features(values=rows.features.values[3 * start : 3 * end]))
    return pb.Inputs(tokens=pb.Tokens(ids=rows.tokens.ids[start:end]))


def test_rewind_again_changes_nothing(wire: Wire) -> None:
    session, fresh = wire.open(), wire.open()
    wire.step(session, TEXT)
    wire.step(fresh, TEXT[:20])
    assert [wire.rewind(session, 20) for _ in range(3)] == [20, 20, 20]
    assert wire.describe(session).position == 20
    assert wire.step(session, "x", outputs=EVERYTHING) == wire.step(fresh, "x", outputs=EVERYTHING)


def test_what_came_after_a_rewind_never_was(wire: Wire) -> None:
    session = wire.open()
    wire.step(session, TEXT[:10], 0)
    wire.step(session, "after", 10)
    wire.rewind(session, 10)
    late = failure(lambda: wire.step(session, "more", 15))
    assert (late.reason, late.metadata["expected_position"]) == ("POSITION_MISMATCH", "10")
    assert not wire.step(session, "other", 10).replayed
    assert wire.step(session, TEXT[:10], 0).replayed
    # A request that was cut is another one.
    wire.rewind(session, 7)
    assert failure(lambda: wire.step(session, TEXT[:10], 0)).reason == "STEP_MISMATCH"


def test_a_generation_is_rewound(wire: Wire) -> None:
    sampling = pb.Sampling(temperature=1.0, seed=4)
    session, fresh = wire.open(), wire.open()
    (whole,) = wire.generate(session, TEXT[:5], max_tokens=20, coalesce=20, sampling=sampling)
    wire.rewind(session, 10)
    wire.step(fresh, pb.Inputs(tokens=pb.Tokens(ids=[*map(ord_of, TEXT[:5]), *whole.tokens[:5]])))
    (rest,) = wire.generate(session, [whole.tokens[5]], 10, max_tokens=14, coalesce=20, sampling=sampling)
    assert rest.tokens == whole.tokens[6:]
    assert rest.log_probabilities == whole.log_probabilities[6:]


def ord_of(letter: str) -> int:
    return "abcdefghijklmnopqrstuvwxyz ,.\n".index(letter)


def test_positions_that_are_not_retained(start_server: Callable[..., ServerProcess]) -> None:
    with connect(start_server(retained_steps=8, snapshot_steps=4).address) as wire:
        session = wire.open()
        for index, letter in enumerate(TEXT[:40]):
            wire.step(session, letter, index)
        oldest = wire.describe(session).oldest_position
        assert 0 < oldest <= 32
        for position in (0, oldest - 1, 41, 2**64 - 1):
            refused = failure(lambda position=position: wire.rewind(session, position))  # type: ignore[misc]
            assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "NOT_RETAINED")
            assert refused.metadata == {
                "session_id": session,
                "position": str(position),
                "oldest_position": str(oldest),
                "newest_position": "40",
            }
        forgotten = failure(lambda: wire.step(session, TEXT[0], 0))
        assert (forgotten.reason, forgotten.metadata["expected_position"]) == ("POSITION_MISMATCH", "40")
        assert wire.step(session, TEXT[oldest], oldest).replayed
        assert wire.rewind(session, oldest) == oldest
        fresh = wire.open()
        wire.step(fresh, TEXT[:oldest])
        assert wire.step(session, "x", outputs=EVERYTHING) == wire.step(fresh, "x", outputs=EVERYTHING)


@pytest.mark.parametrize("move", ["fork", "rewind", "export"])
def test_work_in_flight_is_in_the_way(wire: Wire, move: str) -> None:
    def refusal() -> Failure | None:
        """What the move is refused with while work is in flight; None if that was over too soon."""
        session = wire.open("letters", version="1")
        requests = (step(session, LONG, len(LONG) * i) for i in range(16))
        answers = wire.sequences.Stream(
            (pb.StreamRequest(step=request) for request in requests), timeout=DEADLINE
        )
        next(answers)
        moves: dict[str, Callable[[str], object]] = {
            "fork": wire.fork,
            "rewind": lambda s: wire.rewind(s, 1),
            "export": wire.export,
        }
        try:
            moves[move](session)
        except grpc.RpcError as error:
            assert [answer.step.position for answer in answers] == [len(LONG) * i for i in range(2, 17)]
            status = rpc_status.from_call(error)
            assert status is not None
            return take_apart(status)
        return None

    refused = next(filter(None, (refusal() for _ in range(ATTEMPTS))))
    assert (refused.code, refused.reason) == ("ABORTED", "SESSION_BUSY")
    assert refused.retry_after > 0
    assert int(refused.metadata["in_flight"]) > 0


def test_all_moves_of_sessions_that_page(cramped: Wire) -> None:
    """Forks, rewinds and steps of more sessions than there are slots, against sessions left alone."""
    rng = np.random.default_rng(12)
    texts: dict[str, str] = {cramped.open(): "" for _ in range(4)}
    for _ in range(150):
        session = list(texts)[rng.integers(len(texts))]
        match rng.integers(4):
            case 0 if len(texts) < 12:
                texts[cramped.fork(session)] = texts[session]
            case 1:
                oldest = cramped.describe(session).oldest_position
                position = int(rng.integers(oldest, len(texts[session]) + 1))
                cramped.rewind(session, position)
                texts[session] = texts[session][:position]
            case _:
                more = TEXT[: rng.integers(1, 9)]
                cramped.step(session, more, len(texts[session]))
                texts[session] += more
    residencies = {cramped.describe(session).residency for session in texts}
    assert pb.RESIDENCY_RESIDENT in residencies
    assert len(residencies) > 1
    for session, text in itertools.islice(texts.items(), 12):
        fresh = cramped.open()
        if text:
            cramped.step(fresh, text)
        expected = cramped.step(fresh, "x", len(text), outputs=EVERYTHING)
        assert cramped.step(session, "x", len(text), outputs=EVERYTHING) == expected
