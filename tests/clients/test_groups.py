"""Groups of sessions stepped by frames: answers are those of single steps, each input is applied once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest
from keepgate_client import (
    AsyncClient,
    CallCancelledError,
    Client,
    Frame,
    InvalidArgumentError,
    RetryPolicy,
    Session,
    SessionBusyError,
    SessionClosedError,
    SessionInUseError,
    SessionNotFoundError,
    StepsExhaustedError,
)
from support.groups import ROWS, SAMPLED, STEPS, VOCABULARY, Columns, columns, inputs, run, same, single
from support.servers import ServerProcess

# --- answers ---


def test_sampled_tokens_are_those_of_single_steps(
    client: Client, sessions: list[Session], undisturbed_columns: Columns
) -> None:
    same(run(client, list(sessions)), undisturbed_columns)
    assert [session.position for session in sessions] == [STEPS] * ROWS
    assert [session.describe().position for session in sessions] == [STEPS] * ROWS
    assert sessions[0].step(tokens=1).position == STEPS + 1


def test_ids_go_on_where_their_sessions_are(client: Client, sessions: list[Session]) -> None:
    expected = single(client, inputs())
    sessions[5].step(tokens=inputs()[:7, 5])
    rest = np.arange(ROWS) != 5
    with client.group([session.session_id for session in sessions]) as group:
        assert group.positions.tolist() == [0] * 5 + [7] + [0] * (ROWS - 6)
        for t in inputs()[:7]:
            group.step(tokens=t[rest], rows=np.flatnonzero(rest))
            group.flush()
        frames = [group.step(tokens=t, log_probabilities=True).result() for t in inputs()[7:]]
        assert len(group) == ROWS
    same(columns(frames), (expected[0][7:], expected[1][7:]))
    assert sessions[5].position == 7  # it was not given, and learns nothing


def test_features(client: Client) -> None:
    series = np.random.default_rng(1).standard_normal((STEPS, ROWS, 3)).astype(np.float32)
    own = [client.open("vectors") for _ in range(ROWS)]
    with client.group(own) as group:
        frames = [group.step(features=features).result() for features in series]
    assert all(frame.tokens is None and frame.log_probabilities is None for frame in frames)
    for row in range(ROWS):
        with client.open("vectors") as session:
            for t in range(STEPS):
                outputs, whole = session.step(features=series[t, row]).outputs, frames[t].outputs
                assert outputs is not None
                assert whole is not None
                assert whole.shape == (ROWS, 2)
                assert whole.dtype == np.float32
                assert outputs.tobytes() == whole[row].tobytes()
    for session in own:
        session.close()


def test_frames_of_different_rows_under_way(
    client: Client, sessions: list[Session], undisturbed_columns: Columns
) -> None:
    even, odd = np.arange(0, ROWS, 2), np.arange(ROWS - 1, 0, -2)
    tokens, logs = np.zeros((STEPS, ROWS), np.uint32), np.zeros((STEPS, ROWS), np.float32)
    with client.group(sessions, seeds=range(ROWS), **SAMPLED) as group:
        for t in range(STEPS):
            futures = [
                group.step(tokens=inputs()[t][rows], rows=rows, log_probabilities=True)
                for rows in (even, odd)
            ]
            for rows, future in zip((even, odd), futures, strict=True):
                ((tokens[t, rows],), (logs[t, rows],)) = columns([future.result()])
    same((tokens, logs), undisturbed_columns)


def test_the_same_with_asyncio(server: ServerProcess, undisturbed_columns: Columns) -> None:
    async def steps() -> list[Frame]:
        async with AsyncClient(server.address) as client:
            own = [await client.open("letters") for _ in range(ROWS)]
            async with client.group(own, seeds=range(ROWS), **SAMPLED) as group:
                frames = [await group.step(tokens=t, log_probabilities=True) for t in inputs()]
                assert group.positions.tolist() == [STEPS] * ROWS == [session.position for session in own]
                with pytest.raises(SessionBusyError, match="group"):
                    await own[0].step(tokens=1)
            for session in own:
                assert await session.close() == STEPS
            with pytest.raises(CallCancelledError):
                group.step(tokens=inputs()[0])
            return frames

    same(columns(asyncio.run(steps())), undisturbed_columns)


# --- sessions and their group ---


def test_sessions_belong_to_their_group(
    client: Client, sessions: list[Session], server: ServerProcess
) -> None:
    with Client(server.address, retry=RetryPolicy(attempts=1)) as other:
        with client.group(sessions[:2]) as group:
            assert group.step(tokens=[1, 2]).result().errors == {}
            assert [session.position for session in sessions[:3]] == [1, 1, 0]
            with pytest.raises(SessionBusyError, match="group runs"):
                sessions[0].step(tokens=1)
            with pytest.raises(SessionBusyError), client.group(sessions):
                pass
            sessions[2].step(tokens=1)  # the group that failed holds none
            with pytest.raises(SessionInUseError):
                other.attach(sessions[0].session_id).step(tokens=1)
            with other.group([s.session_id for s in sessions[:3]]) as second:
                frame = second.step(tokens=[1, 2, 3]).result()
                assert {row: type(error) for row, error in frame.errors.items()} == {
                    0: SessionInUseError,
                    1: SessionInUseError,
                }
                assert second.positions.tolist()[2] == 2
                group.close()
                assert second.step(tokens=[1, 2, 3]).result().errors == {}
                assert second.positions.tolist() == [2, 2, 3]
        with pytest.raises(CallCancelledError):
            group.step(tokens=[1, 2])


def test_a_session_that_ends_has_errors_and_the_others_go_on(
    client: Client, sessions: list[Session], server: ServerProcess, undisturbed_columns: Columns
) -> None:
    gone, half = 3, STEPS // 2
    rest = np.delete(np.arange(ROWS), gone)
    tokens, logs = [], []
    with Client(server.address) as other, client.group(sessions, seeds=range(ROWS), **SAMPLED) as group:
        for t, column in enumerate(inputs()):
            if t == half:
                other.attach(sessions[gone].session_id).close()
            frame = group.step(tokens=column, log_probabilities=True).result()
            assert list(frame.errors) == ([gone] if t >= half else [])
            assert frame.tokens is not None
            assert frame.log_probabilities is not None
            if t >= half:
                assert isinstance(frame.errors[gone], SessionClosedError)
                assert (frame.tokens[gone], frame.log_probabilities[gone]) == (0, 0)
            tokens.append(frame.tokens[rest])
            logs.append(frame.log_probabilities[rest])
        assert group.positions[gone] == half
        alone = group.step(tokens=[1], rows=[gone]).result()
        assert (alone.tokens, list(alone.errors)) == (None, [0])
        with pytest.raises(InvalidArgumentError, match=r"^frame.tokens\[9\]") as caught:
            group.step(tokens=np.where(np.arange(ROWS) == 9, VOCABULARY, 1)).result()
        assert [violation.field for violation in caught.value.violations] == ["frame.tokens[9]"]
    same(
        (np.array(tokens), np.array(logs)), (undisturbed_columns[0][:, rest], undisturbed_columns[1][:, rest])
    )
    assert sessions[gone].position == half


def test_sessions_that_cannot_be_bound(client: Client, sessions: list[Session]) -> None:
    with client.open("ids") as another:
        names = [sessions[0].session_id, "nobody", another.session_id, sessions[1].session_id]
        with client.group(names) as group:
            for position in (1, 2):
                frame = group.step(tokens=[4, 4, 4, 4]).result()
                kinds = [(row, type(error)) for row, error in frame.errors.items()]
                assert kinds == [(1, SessionNotFoundError), (2, InvalidArgumentError)]
                assert group.positions.tolist() == [position, 0, 0, position]


def test_rows_in_use_wait_for_each_other(client: Client, sessions: list[Session]) -> None:
    names = [session.session_id for session in sessions]
    with client.group(names[:3]) as first, client.group(names[1:4]) as second:
        assert first.step(tokens=[1, 1, 1]).result().errors == {}
        future = second.step(tokens=[2, 2, 2], log_probabilities=True)
        while second.positions[2] == 0:  # what is free does not wait
            assert not future.done()
            time.sleep(0.001)
        first.close()
        frame = future.result()
        assert frame.errors == {}
        assert second.positions.tolist() == [2, 2, 1]
    expected = [single(client, np.array([tokens], np.uint32).T) for tokens in ([1, 2], [1, 2], [2])]
    same(columns([frame]), tuple(np.array([[c[i][-1, 0] for c in expected]]) for i in (0, 1)))  # type: ignore[arg-type]


def test_more_sessions_than_one_message_binds(
    client: Client, sessions: list[Session], undisturbed_columns: Columns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepgate_client._group.BIND_ROWS", 5)
    same(run(client, list(sessions)), undisturbed_columns)


def test_frames_that_the_server_has_no_room_for(start_server: Callable[..., ServerProcess]) -> None:
    limited = start_server(max_pending_steps=ROWS - 1, max_inputs_per_request=1)
    with Client(limited.address, retry=RetryPolicy(attempts=3)) as client:
        own = [client.open("letters") for _ in range(ROWS)]
        with client.group(own) as group:
            with pytest.raises(StepsExhaustedError):
                group.step(tokens=inputs()[0]).result()
            assert group.positions.tolist() == [0] * ROWS
            half = np.arange(ROWS // 2)
            futures = [group.step(tokens=inputs()[0, rows], rows=rows) for rows in (half, half + ROWS // 2)]
            assert [future.result().errors for future in futures] == [{}, {}]
            assert group.positions.tolist() == [1] * ROWS
