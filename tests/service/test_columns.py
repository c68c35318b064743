"""Bound sessions, and what comes between: in this process, where the moment can be chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keepgate import moves
from keepgate.columns import Answer, Columns
from keepgate.config import load_settings
from keepgate.engine.engine import Engine
from keepgate.errors import RequestError, SessionBusyError, SessionInUseError, StoreUnavailableError
from keepgate.generation import GenerationOptions
from keepgate.keeper import Keeper
from keepgate.models.format import save_model
from keepgate.models.registry import LoadedModel, load_repository
from keepgate.replay import replay
from keepgate.sequences import Sequences
from keepgate.sessions.durability import Durability
from keepgate.sessions.stores import open_store, spill_store
from keepgate_kernels import Sampling
from support.random_models import feature_spec, random_tensors
from support.repositories import write_repository

GREEDY = Sampling()
SOON = 20.0
WIDE = 17_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual ones, and one whose state grows till it overflows."""
    folder = write_repository(tmp_path_factory.mktemp("columns"))
    spec = feature_spec("rnn_relu", size=1)
    tensors = {name: np.abs(values) for name, values in random_tensors(spec).items()}
    tensors["layers.0.weight_hh"][:] = 10.0
    save_model(folder / "grows" / "1" / "model.safetensors", spec, tensors)
    return folder


Run = Callable[[Callable[[Sequences], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def served(models: Path, tmp_path: Path) -> Callable[..., Run]:
    """served(slots=...) runs a coroutine with sequences of these settings and a store."""

    def make(**settings: Any) -> Run:
        def run(body: Callable[[Sequences], Coroutine[Any, Any, None]]) -> None:
            async def main() -> None:
                chosen = load_settings(models=models, store=f"sqlite:{tmp_path}/sessions.db", **settings)
                registry = load_repository(models, max_bytes=1 << 20, slots=chosen.slots).registry
                store = open_store(chosen.store, server_id="here")
                sequences = Sequences(registry, chosen, Keeper(registry, chosen, store, spill_store()))
                try:
                    await asyncio.wait_for(body(sequences), SOON)
                finally:
                    await sequences.stop()

            asyncio.run(main())

        return run

    return make


@pytest.fixture
def on_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch takes a while, as a large model's does."""
    monkeypatch.setattr(Engine, "_is_cheap", lambda *_: False)
    monkeypatch.setattr(Engine, "_may_run_alone", lambda *_: False)


def model_of(sequences: Sequences, name: str = "letters") -> LoadedModel:
    return sequences.registry.get(name)


def step(columns: Columns, handles: Any, positions: Any, inputs: Any) -> Answer:
    named = np.atleast_1d(np.asarray(handles, "<u8"))
    where = np.broadcast_to(np.asarray(positions, np.uint64), named.shape)
    given = np.asarray(inputs)
    values = given.astype(np.float32) if given.dtype.kind == "f" else np.atleast_1d(given).astype(np.uint32)
    return columns.step(columns.rows(named.tobytes(), "handles"), where, values)


async def whole(answer: Answer) -> Answer:
    done = asyncio.Event()
    answer.when_whole(done.set)
    await done.wait()
    return answer


@pytest.mark.usefixtures("on_the_thread")
def test_a_session_is_closed_while_a_row_of_it_is_an_ordinary_step(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        one, other = await sequences.open(model), await sequences.open(model)
        columns = Columns(sequences, model)
        handles = [columns.bind(session, GREEDY) for session in (one, other)]
        await whole(step(columns, handles, 0, [1, 2]))
        await whole(step(columns, handles, 1, [1, 2]))
        sequences.residents(model.key).leave(one)
        alone = step(columns, handles[0], 2, 3)
        await sequences.close(one)
        assert (await whole(alone)).errors == {}
        for position in (2, 3):  # the call goes on
            assert (await whole(step(columns, handles[1], position, 3))).errors == {}
        columns.settle()
        assert other.position == 4

    served()(body)


@pytest.mark.usefixtures("on_the_thread")
def test_a_state_overflows_with_more_frames_under_way(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences, "grows")
        residents = sequences.residents(model.key)
        free = residents.slots.free
        session = await sequences.open(model)
        columns = Columns(sequences, model)
        handle = columns.bind(session, GREEDY)
        position = 0
        while session.ended is None:
            answers = [step(columns, handle, position + ahead, [[1.0]]) for ahead in range(4)]
            for answer in answers:
                await whole(answer)
            position += 4
        assert answers[-1].errors
        assert session.position == session.tail
        assert residents.slots.free == free
        assert session.keeping.is_over
        columns.close()
        assert residents.is_unused

    served()(body)


@pytest.mark.usefixtures("on_the_thread")
def test_handles_change_hands_while_a_row_is_recalled(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        one, other, same = [await sequences.open(model) for _ in range(3)]
        columns = Columns(sequences, model)
        handle = columns.bind(one, GREEDY)
        for position in range(6):
            await whole(step(columns, handle, position, 1))
        for session in (other, same):
            job, _ = sequences.step(session, 0, np.arange(6, dtype=np.uint32))
            await job.wait()
        sequences.residents(model.key).leave(other)
        again = step(columns, handle, 1, 1)
        columns.unbind(np.array([handle], np.uint64))
        assert columns.bind(other, GREEDY) == handle
        columns.bind(one, GREEDY)
        await whole(again)
        answer = await whole(step(columns, handle, 6, 7))
        job, _ = sequences.step(same, 6, np.array([7], np.uint32))
        assert answer.tokens[0] == (await job.wait()).token  # type: ignore[union-attr]

    served()(body)


@pytest.mark.usefixtures("on_the_thread")
def test_what_flies_is_not_let_go(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        session = await sequences.open(model)
        columns = Columns(sequences, model)
        handle = columns.bind(session, GREEDY)
        await whole(step(columns, handle, 0, 1))
        flying = step(columns, handle, 1, 1)
        with pytest.raises(SessionBusyError):
            columns.unbind(np.array([handle], np.uint64))
        await sequences.close(session)
        with pytest.raises(SessionBusyError):
            columns.unbind(np.array([handle], np.uint64))
        assert (await whole(flying)).errors == {}
        columns.unbind(np.array([handle], np.uint64))
        assert sequences.residents(model.key).is_unused

    served()(body)


def test_a_generation_ends_where_its_session_is_bound(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        session, same = await sequences.open(model), await sequences.open(model)
        generation = await sequences.generate(
            session, 0, np.array([1], np.uint32), GenerationOptions(GREEDY, 10)
        )
        chunks = generation.chunks(1)
        await anext(chunks)
        columns = Columns(sequences, model)
        handle = columns.bind(session, GREEDY)
        position = session.position
        with pytest.raises(SessionInUseError):
            async for _ in chunks:
                pass
        answer = await whole(step(columns, handle, position, 9))
        job, _ = sequences.step(same, 0, np.array([1, 9], np.uint32))
        assert position == 1
        assert answer.tokens[0] == (await job.wait()).token  # type: ignore[union-attr]

    served()(body)


def test_a_fork_that_has_to_wait_has_the_state_of_its_history(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        earlier = await sequences.open(model, "same", durability=Durability.EVERYSEC)
        session = await sequences.open(model, durability=Durability.NONE)
        columns = Columns(sequences, model)
        handle = columns.bind(session, GREEDY)
        for position in range(3):
            await whole(step(columns, handle, position, position))
        await sequences.close(earlier)
        forking = asyncio.ensure_future(moves.fork(sequences, session, "same"))
        await asyncio.sleep(0)
        assert not forking.done()
        await whole(step(columns, handle, 3, 9))
        twin = await forking
        residents = sequences.residents(model.key)
        history = twin.keeping.known
        assert twin.position == history.position == 4
        assert await residents.state(twin) == await replay(residents, history, 4)

    served()(body)


def test_a_frame_of_more_rows_than_a_batch_has_inputs(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        columns = Columns(sequences, model)
        handles = [columns.bind(await sequences.open(model), GREEDY) for _ in range(WIDE)]
        await whole(step(columns, handles, 0, np.zeros(WIDE)))
        assert (await whole(step(columns, handles, 1, np.zeros(WIDE, np.uint32)))).errors == {}

    served(max_batch=20_000, slots=20_000)(body)


def test_many_small_frames_do_not_pile_up(served: Callable[..., Run]) -> None:
    async def body(sequences: Sequences) -> None:
        model = model_of(sequences)
        columns = Columns(sequences, model)
        handles = [columns.bind(await sequences.open(model), GREEDY) for _ in range(100)]
        await whole(step(columns, handles, 0, np.zeros(100, np.uint32)))
        most = 0
        for position in range(1, 31):
            for handle in handles:
                await whole(step(columns, handle, position, 3))
                most = max(most, len(columns.log))
        assert 1_000 < most <= 1_024

    served()(body)


def test_those_who_wait_for_a_claim_are_not_told_of_its_failure(
    served: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store is asked for one session by several calls at once, and fails the first of them."""

    async def body(sequences: Sequences) -> None:
        monkeypatch.setattr(Keeper, "is_shared", property(lambda _: True))
        model = model_of(sequences)
        go, asked = asyncio.Event(), 0

        async def claim(session_id: str, principal: str) -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                await go.wait()
                raise StoreUnavailableError
            await sequences.open(model, session_id, durability=Durability.NONE)

        monkeypatch.setattr(sequences.keeper, "claim", claim)
        finding = [asyncio.ensure_future(sequences.find("s")) for _ in range(4)]
        await asyncio.sleep(0)
        finding[1].cancel()
        await asyncio.sleep(0)
        go.set()
        first, cancelled, *others = await asyncio.gather(*finding, return_exceptions=True)
        assert isinstance(first, StoreUnavailableError)
        assert isinstance(cancelled, asyncio.CancelledError)
        assert not any(isinstance(each, RequestError) for each in others), others
        assert [each.session_id for each in others] == ["s", "s"]  # type: ignore[union-attr]

    served()(body)
