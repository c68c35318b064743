"""What an operator does to a server that runs: calls of keepgate.v1.Admin, and looks at what is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from keepgate_protos.v1 import admin_pb2, admin_pb2_grpc, models_pb2

from support.servers import ServerProcess
from support.wire import DEADLINE, Wire

POLL_SECONDS = 0.02
CONDITIONS = {models_pb2.CONDITION_SERVING: "", models_pb2.CONDITION_RETIRED: " retired"}


class Operator:
    """One connection to the Admin service. Versions are "NAME/VERSION"."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub: Any = admin_pb2_grpc.AdminStub(channel)  # type: ignore[no-untyped-call]

    def reload(self) -> admin_pb2.ReloadResponse:
        answer: admin_pb2.ReloadResponse = self.stub.Reload(admin_pb2.ReloadRequest(), timeout=DEADLINE)
        return answer

    def load(self, key: str) -> models_pb2.Model:
        name, version = key.split("/")
        answer = self.stub.Load(admin_pb2.LoadRequest(name=name, version=version), timeout=DEADLINE)
        model: models_pb2.Model = answer.model
        return model

    def unload(self, key: str) -> admin_pb2.UnloadResponse:
        name, version = key.split("/")
        answer: admin_pb2.UnloadResponse = self.stub.Unload(
            admin_pb2.UnloadRequest(name=name, version=version), timeout=DEADLINE
        )
        return answer

    def drain(self) -> admin_pb2.DrainResponse:
        answer: admin_pb2.DrainResponse = self.stub.Drain(admin_pb2.DrainRequest(), timeout=DEADLINE)
        return answer


@contextmanager
def operate(server: ServerProcess) -> Iterator[Operator]:
    """A connection to a server's Admin service, closed at the end."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.admin_address, options) as channel:
        yield Operator(channel)


def names(versions: Any) -> list[str]:
    """Of the messages of a reload: "NAME/VERSION"."""
    return [f"{each.name}/{each.version}" for each in versions]


def loaded(wire: Wire) -> list[str]:
    """What Models.List tells, "NAME/VERSION", with " retired" after those that are."""
    answer = wire.models.List(models_pb2.ListModelsRequest(), timeout=DEADLINE)
    return [f"{each.name}/{each.version}{CONDITIONS[each.condition]}" for each in answer.models]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when it holds. Fails the test if it never does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(POLL_SECONDS)
