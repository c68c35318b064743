"""A server whose sessions are on the device: steps, forks, rewinds and moves as on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from keepgate_client import Client, Prediction
from support.random_models import token_spec
from support.repositories import write_model
from support.servers import ServerProcess

SECONDS = 120.0
"""A call's, where kernels are compiled first, and perhaps run on the machine."""
TOKENS = [3, 1, 4, 1, 5]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], ServerProcess]]:
    """A server of a model of 8 units, whose states do not all fit, on the device named."""
    started: list[ServerProcess] = []
    write_model(tmp_path / "models", "small", 1, token_spec("lstm", hidden=(8,)))

    def start(device: str) -> ServerProcess:
        settings = {"models": tmp_path / "models", "device": device, "slots": 2, "snapshot_steps": 2}
        started.append(ServerProcess(tmp_path / device, settings))
        return started[-1].wait_ready()

    yield start
    for server in started:
        server.kill()


def use(address: str) -> list[Prediction]:
    """Three sessions on two slots; all that they answer."""
    with Client(address, timeout=SECONDS) as client:
        first = client.open("small")
        answers = [first.step(tokens=TOKENS, logits=True)]
        fork = first.fork()
        answers += [fork.step(tokens=6, logits=True), first.step(tokens=7, logits=True)]
        first.rewind(3)
        moved = client.import_session(fork.export())
        answers += [session.step(tokens=2, logits=True) for session in (first, moved, fork)]
        return answers


def test_a_server_on_the_device(serve: Callable[[str], ServerProcess]) -> None:
    server = serve("cuda")
    answers, expected = use(server.address), use(serve("cpu").address)
    with Client(server.address) as client:
        assert [model.device for model in client.models()] == ["cuda"]
    assert [(a.position, a.token) for a in answers] == [(e.position, e.token) for e in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.logits == pytest.approx(wanted.logits, abs=1e-5)
    assert answers[4] == answers[5]  # bit for bit: what was exported goes on as what stayed
    assert server.stop() == 0
