"""Sessions that are stepped as rows, and meddled with, by chance: each goes on as if it were alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.frames import OpenFrames, row_of
from support.servers import ServerProcess
from support.wire import Wire, connect

TURNS = 150
SESSIONS = 12


@pytest.fixture(scope="module")
def cramped(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server with seven slots, frames cut into parts of four rows, and states kept each five steps."""
    folder = tmp_path_factory.mktemp("cramped")
    settings = {
        "models": repository,
        "slots": 7,
        "max_batch": 4,
        "snapshot_steps": 5,
        "retained_steps": 40,
        "store": f"sqlite:{folder}/sessions.db",
    }
    process = ServerProcess(folder, settings).wait_ready()
    with connect(process.address) as wire:
        yield wire
    assert process.stop() == 0, process.log()
    assert '"level": "error"' not in process.log()


class Twins:
    """A session that is a row now and then, and all that was applied to it, for a second one to repeat."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: list[int] = []

    def check(self, wire: Wire) -> None:
        """What the session says next is what one says that was given all its inputs at once."""
        whole = wire.open()
        if self.inputs:
            wire.step(whole, self.inputs, 0)
        place = len(self.inputs)
        assert wire.position(self.name) == place
        assert row_of(wire.step(self.name, [3], place)) == row_of(wire.step(whole, [3], place))
        self.inputs.append(3)
        wire.close(whole)


@pytest.mark.parametrize("seed", range(4))
def test_by_chance(cramped: Wire, seed: int) -> None:
    rng = random.Random(seed)
    durabilities = ["DURABILITY_NONE", "DURABILITY_EVERYSEC", "DURABILITY_ALWAYS"]
    twins = [Twins(cramped.open(durability=rng.choice(durabilities))) for _ in range(SESSIONS)]
    call = OpenFrames(cramped)
    handles = dict(zip(twins, call.bind([twin.name for twin in twins])[0].tolist(), strict=True))
    last: dict[Twins, tuple[int, int, object]] = {}  # position, input and answer of the last row
    for _ in range(TURNS):
        chance = rng.random()
        twin = rng.choice(twins)
        if chance < 0.75:  # some of them, some of those a second time
            some = rng.sample(twins, rng.randint(1, SESSIONS))
            rows = []
            for each in some:
                again = each in last and rng.random() < 0.2 and last[each][0] == len(each.inputs) - 1
                rows.append(last[each][:2] if again else (len(each.inputs), rng.randrange(30)))
            positions, inputs = zip(*rows, strict=True)
            answers = call.step([handles[each] for each in some], positions, np.array(inputs)).rows
            for each, (position, token), answer in zip(some, rows, answers, strict=True):
                assert answer.error is None
                if position == len(each.inputs):
                    each.inputs.append(token)
                    last[each] = (position, token, answer)
                else:
                    assert answer == last[each][2]
        elif chance < 0.8 and twin.inputs:
            back = rng.randint(0, min(5, len(twin.inputs)))
            cramped.rewind(twin.name, len(twin.inputs) - back)
            del twin.inputs[len(twin.inputs) - back :]
            last.pop(twin, None)
        elif chance < 0.85:
            fork = Twins(cramped.fork(twin.name))
            fork.inputs = list(twin.inputs)
            fork.check(cramped)
            cramped.close(fork.name)
        elif chance < 0.9:  # stepped by others for a while
            call.ask(unbind={"handles": np.array([handles[twin]], "<u8").tobytes()})
            twin.check(cramped)
            handles[twin] = int(call.bind([twin.name])[0][0])
            last.pop(twin, None)
        else:
            assert cramped.describe(twin.name).position == len(twin.inputs)
    call.finish()
    for twin in twins:
        twin.check(cramped)
        cramped.close(twin.name)
