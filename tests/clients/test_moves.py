"""Fork, rewind, export, import and states with the clients, synchronous and asyncio."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from keepgate_client import (
    AsyncClient,
    Client,
    Durability,
    InvalidArgumentError,
    LayerState,
    NotRetainedError,
    PositionMismatchError,
    Residency,
    SessionBusyError,
    SessionClosedError,
    SessionExistsError,
)
from keepgate_client._infos import session_from_proto
from keepgate_protos.v1 import sequences_pb2 as pb
from support.servers import ServerProcess


def test_a_fork_goes_its_own_way(client: Client) -> None:
    with client.open("letters") as session, client.open("letters") as fresh:
        session.step(text="hello")
        fresh.step(text="hello")
        with session.fork(session_id="a-fork", idle_ttl=60) as fork:
            assert (fork.session_id, fork.model, fork.position) == ("a-fork", "letters", 5)
            assert fork.describe().idle_ttl.total_seconds() == 60
            fork.step(text="other")
            assert session.position == session.describe().position == 5
            assert session.step(text="x", logits=True) == fresh.step(text="x", logits=True)
            with pytest.raises(SessionExistsError):
                session.fork("a-fork")
        with pytest.raises(SessionClosedError):
            fork.describe()
        assert session.describe().position == 6


def test_a_fork_goes_on_with_a_generation(client: Client) -> None:
    with client.open("letters") as session:
        first = list(session.generate("abc", max_tokens=5))
        with session.fork() as fork:
            assert fork.session_id != session.session_id
            more = list(fork.generate(max_tokens=5))
            assert more == list(session.generate(max_tokens=5))
            assert more[0].position == first[-1].position + 1


def test_rewind_moves_the_session(client: Client) -> None:
    with client.open("letters") as session, client.open("letters") as fresh:
        session.step(text="hello")
        session.step(text="world")
        assert session.rewind(7).position == session.position == 7
        fresh.step(text="hellowo")
        assert session.step(text="x", logits=True) == fresh.step(text="x", logits=True)
        with pytest.raises(NotRetainedError) as caught:
            session.rewind(9)
        assert (caught.value.position, caught.value.oldest_position) == (9, 0)
        assert caught.value.newest_position == session.position == 8
        with pytest.raises(ValueError, match="position: got -1"):
            session.rewind(-1)


def test_rewind_undoes_a_generation_left_early(client: Client) -> None:
    with client.open("letters") as session:
        tokens = list(session.generate("abc", max_tokens=50, temperature=1.0, seed=3))
        session.rewind(0)
        loop = session.generate("abc", max_tokens=50, temperature=1.0, seed=3)
        assert [next(loop) for _ in range(10)] == tokens[:10]
        assert session.rewind(3).position == 3
        assert list(loop) == []
        assert session.step(text="x").position == 4
        with pytest.raises(ValueError, match="no generation to go on with"):
            session.generate(max_tokens=1)


def test_a_position_of_another_object_is_refused_after_a_rewind(client: Client) -> None:
    with client.open("letters") as session:
        session.step(text="hello")
        other = client.attach(session.session_id)
        session.rewind(2)
        with pytest.raises(PositionMismatchError) as caught:
            other.step(text="x")
        assert caught.value.expected_position == 2
        assert other.resync().position == other.position == 2


def test_export_and_import(client: Client) -> None:
    with client.open("letters", "1") as session:
        session.step(text="hello")
        blob = session.export()
        assert isinstance(blob, bytes)
        with client.import_session(blob, session_id="imported", idle_ttl=60) as copy:
            assert (copy.session_id, copy.model, copy.version, copy.position) == (
                "imported",
                "letters",
                "1",
                5,
            )
            assert copy.describe().oldest_position == 5
            assert copy.step(text="x", logits=True) == session.step(text="x", logits=True)
        with pytest.raises(InvalidArgumentError, match="weights") as caught:
            client.import_session(blob, "letters", "2")
        assert caught.value.violations[0].field == "blob"
        with pytest.raises(InvalidArgumentError, match="damaged"):
            client.import_session(blob[:-1] + bytes([blob[-1] ^ 1]))


def test_one_call_at_a_time(client: Client) -> None:
    with client.open("letters") as session:
        loop = session.generate("abc", max_tokens=1000)
        next(loop)
        for call in (session.fork, session.export):
            with pytest.raises(SessionBusyError):
                call()


def test_the_final_state_of_one_session_starts_another(client: Client) -> None:
    with client.open("letters") as encoder:
        final = encoder.step(text="hello", state=True).state
        assert [(np.shape(layer.h), np.shape(layer.c)) for layer in final] == [((16,), (0,)), ((12,), (0,))]
        assert all(np.asarray(layer.h).dtype == np.float32 for layer in final)
        lists = [LayerState(np.asarray(layer.h).tolist()) for layer in final]
        expected = encoder.step(text="x", logits=True, state=True)
        for given in (final, lists):
            with client.open("letters", initial_state=given) as decoder:
                assert decoder.position == 0
                prediction = decoder.step(text="x", logits=True, state=True)
                assert dataclasses.replace(prediction, position=expected.position) == expected
                (streamed,) = decoder.stream(text="y", state=True)
                decoder.rewind(1)
                assert decoder.step(text="y", state=True).state == streamed.state


def test_initial_states_that_are_refused(client: Client) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.open("letters", "1", initial_state=[LayerState([0.0] * 16)])
    assert caught.value.violations[0].field == "initial_state[0].c"
    with pytest.raises(ValueError, match=r"h: got shape \(1, 2\)"):
        LayerState([[1.0, 2.0]])  # type: ignore[list-item]


def test_layer_states_are_equal_bit_for_bit() -> None:
    state = LayerState([0.5, -0.0], (1,))
    assert state == LayerState(np.array([0.5, -0.0]), np.array([1.0]))
    assert hash(state) == hash(LayerState([0.5, -0.0], [1]))
    assert state != LayerState([0.5, 0.0], [1])
    assert state != LayerState([0.5, -0.0])
    assert pickle.loads(pickle.dumps(state)) == state  # noqa: S301 - made here


def test_durability_and_residency(client: Client) -> None:
    with client.open("letters", durability="none") as session:
        info = session.describe()
        assert (info.durability, info.durable_position) == (Durability.NONE, 0)
        assert info.oldest_position == 0
        session.step(text="a")
        assert session.describe().residency is Residency.RESIDENT
        listed = {each.session_id: each for each in client.sessions()}
        assert listed[session.session_id].oldest_position is None
        with pytest.raises(InvalidArgumentError, match="no store"):
            session.fork(durability="always")
    with pytest.raises(InvalidArgumentError, match="no store"):
        client.open("letters", durability=Durability.EVERYSEC)
    with pytest.raises(ValueError, match="durability: got 'forever'"):
        client.open("letters", durability="forever")  # type: ignore[arg-type]


def test_what_a_newer_server_may_tell() -> None:
    session = pb.Session(session_id="s", durability=9, residency=9, created=Timestamp())  # type: ignore[arg-type]
    info = session_from_proto(session)
    assert (info.durability, info.residency) == (None, None)


def test_asyncio_has_it_too(server: ServerProcess) -> None:
    async def run() -> None:
        async with AsyncClient(server.address) as client, client.open("letters") as session:
            final = (await session.step(text="hello", state=True)).state
            async with session.fork() as fork, client.open("letters", initial_state=final) as decoder:
                imported = await client.import_session(await session.export())
                expected = await session.step(text="x", logits=True)
                assert await fork.step(text="x", logits=True) == expected
                assert await imported.step(text="x", logits=True) == expected
                decoded = await decoder.step(text="x", logits=True)
                assert dataclasses.replace(decoded, position=expected.position) == expected
                await imported.close()
            with pytest.raises(SessionClosedError):
                await fork.describe()
            async for token in session.generate("abc", max_tokens=1000):
                if token.position > 12:
                    break
            twin = await session.fork()
            assert twin.position >= session.position
            await twin.close()
            assert (await session.rewind(5)).position == session.position == 5
            async with client.stream() as stream:
                again = await stream.step(session, text="x", logits=True)
            assert again == expected

    asyncio.run(run())
