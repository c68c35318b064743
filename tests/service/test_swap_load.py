"""Sessions step while versions come and go under them; all answers are those of one that stays as it is."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from keepgate_protos.v1 import admin_pb2, admin_pb2_grpc, models_pb2, models_pb2_grpc, sequences_pb2_grpc
from keepgate_protos.v1 import sequences_pb2 as pb
from support.operator import names
from support.repositories import ALPHABET, characters_spec, write_model
from support.servers import ServerProcess
from support.wire import DEADLINE

Start = Callable[..., ServerProcess]
SPECS = {
    1: characters_spec("lstm", (24,)),
    2: characters_spec("gru", (16, 12)),
    3: characters_spec("cifg", (40,)),
    4: characters_spec("rnn_tanh", (32,)),
    5: characters_spec("lstm", (16, 16)),
}
VISITORS, RESIDENTS = 200, 100
"""At a time: sessions that end after a few steps, when the next one begins; and some that stay to the end."""
STEPS = 3
SLOTS = 64
"""Fewer than there are sessions of a version, so that states are paged out and made again."""


class Load:
    """Sessions of one server. Each is a number, from which all that it sends follows."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.sequences: Any = sequences_pb2_grpc.SequencesStub(channel)  # type: ignore[no-untyped-call]
        self.versions: dict[int, str] = {}  # of the sessions that were opened
        self.answers: dict[int, list[bytes]] = defaultdict(list)
        self.stopping = False
        self._next = RESIDENTS

    async def visit(self) -> None:
        """One short session after the other."""
        while not self.stopping:
            number = self._next
            self._next += 1
            session = await self.open(number)
            for index in range(STEPS):
                await self.step(session, number, index)
            await self.sequences.Close(pb.CloseRequest(session_id=session), timeout=DEADLINE)

    async def stay(self, number: int) -> None:
        """One session for the whole time."""
        session = await self.open(number)
        index = 0
        while not self.stopping:
            await self.step(session, number, index)
            index += 1
        await self.sequences.Close(pb.CloseRequest(session_id=session), timeout=DEADLINE)

    async def repeat(self, number: int, version: str, steps: int) -> None:
        """What a session of another server did."""
        session = await self.open(number, version)
        for index in range(steps):
            await self.step(session, number, index)
        await self.sequences.Close(pb.CloseRequest(session_id=session), timeout=DEADLINE)

    async def open(self, number: int, version: str = "") -> str:
        request = pb.OpenRequest(model="letters", version=version, session_id=f"session-{number}")
        session = (await self.sequences.Open(request, timeout=DEADLINE)).session
        self.versions[number] = session.version
        return str(session.session_id)

    async def step(self, session: str, number: int, index: int) -> None:
        position = index * 3
        text = "".join(
            ALPHABET[(number * 7 + position + place * place) % len(ALPHABET)] for place in range(3)
        )
        request = pb.StepRequest(
            session_id=session,
            position=position,
            inputs=pb.Inputs(text=text),
            sampling=pb.Sampling(temperature=0.9, top_k=7, seed=number),
            outputs=pb.Outputs(logits=True, hidden=True),
        )
        answer = await self.sequences.Step(request, timeout=DEADLINE)
        self.answers[number].append(answer.SerializeToString(deterministic=True))

    async def more(self) -> None:
        """Return when as many sessions were opened as there are visitors at a time."""
        goal = len(self.versions) + VISITORS
        while len(self.versions) < goal:
            await asyncio.sleep(0.01)


async def under_load(server: ServerProcess, models: Path, aside: Path) -> Load:
    """The versions of `aside` come to `models` and go from there, in turns, while sessions step."""
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        grpc.aio.insecure_channel(server.admin_address) as admin_channel,
    ):
        load = Load(channel)
        admin: Any = admin_pb2_grpc.AdminStub(admin_channel)  # type: ignore[no-untyped-call]
        listing: Any = models_pb2_grpc.ModelsStub(channel)  # type: ignore[no-untyped-call]

        async def reload() -> admin_pb2.ReloadResponse:
            answer: admin_pb2.ReloadResponse = await admin.Reload(admin_pb2.ReloadRequest(), timeout=DEADLINE)
            assert not answer.refused
            return answer

        async def swap() -> None:
            for version in (2, 3, 4, 5):
                await load.more()
                shutil.copytree(aside / str(version), models / str(version))
                assert names((await reload()).loaded) == [f"letters/{version}"]
                await load.more()
                if version == 4:
                    await admin.Unload(admin_pb2.UnloadRequest(name="letters", version="3"), timeout=DEADLINE)
                elif version == 5:  # 5 goes: sessions are opened on 4 again
                    shutil.rmtree(models / "5")
                    assert names((await reload()).retired) == ["letters/5"]
                else:
                    shutil.rmtree(models / str(version - 1))
                    assert names((await reload()).retired) == [f"letters/{version - 1}"]
            await load.more()
            load.stopping = True

        stay = [load.stay(number) for number in range(RESIDENTS)]
        await asyncio.gather(swap(), *stay, *(load.visit() for _ in range(VISITORS)))
        answer = await listing.List(models_pb2.ListModelsRequest(), timeout=DEADLINE)
        assert {"letters/4"} <= set(names(answer.models))
        assert sum(model.sessions for model in answer.models) == 0
        return load


async def unswapped(server: ServerProcess, load: Load) -> Load:
    """The same sessions on a server that has all versions from the beginning."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        again = Load(channel)
        at_a_time = asyncio.Semaphore(64)

        async def repeat(number: int, version: str) -> None:
            async with at_a_time:
                await again.repeat(number, version, len(load.answers[number]))

        await asyncio.gather(*(repeat(number, version) for number, version in load.versions.items()))
        return again


def test_no_answer_depends_on_what_comes_and_goes(start_server: Start, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    for version, spec in SPECS.items():
        write_model(aside, "letters", version, spec, seed=version)
    models = tmp_path / "models"
    shutil.copytree(aside / "letters" / "1", models / "letters" / "1")
    server = start_server(models=models, slots=SLOTS)
    load = asyncio.run(under_load(server, models / "letters", aside / "letters"))
    assert server.stop() == 0
    assert '"level": "error"' not in server.log()
    assert server.log().count('"event": "model retired"') == 4
    assert set(load.versions.values()) == {"1", "2", "3", "4", "5"}
    again = asyncio.run(unswapped(start_server(models=aside, slots=SLOTS), load))
    assert again.answers == load.answers
