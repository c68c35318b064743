"""grpc.health.v1: those who watch, and those of them who do not behave."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.http2 import http2
from support.operator import operate
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect

Start = Callable[..., ServerProcess]
Status = health_pb2.HealthCheckResponse
WATCH = b"/grpc.health.v1.Health/Watch"
MODEL = "keepgate.model.letters"


class Watcher:
    """A watcher of one status that reads what it is sent."""

    def __init__(self, wire: Wire, service: str) -> None:
        self._told: queue.Queue[int] = queue.Queue()
        self._call: Any = health_pb2_grpc.HealthStub(wire.channel).Watch(
            health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> str:
        """The next status. Fails the test if none comes."""
        return str(Status.ServingStatus.Name(self._told.get(timeout=DEADLINE)))

    def leave(self) -> None:
        self._call.cancel()
        self._thread.join(DEADLINE)

    def _read(self) -> None:
        try:
            for answer in self._call:
                self._told.put(answer.status)
        except grpc.RpcError:  # it has left, or the server has
            return


def test_who_watches_an_unknown_service_is_told_so(wire: Wire) -> None:
    watcher = Watcher(wire, "keepgate.v2.Sequences")
    assert watcher.next() == "SERVICE_UNKNOWN"
    watcher.leave()


def test_one_who_leaves_silences_nobody(start_server: Start) -> None:
    server = start_server()
    with connect(server.address) as wire, operate(server) as operator:
        first, second, all_of_it = Watcher(wire, MODEL), Watcher(wire, MODEL), Watcher(wire, "")
        assert [first.next(), second.next(), all_of_it.next()] == ["SERVING"] * 3
        first.leave()
        with connect(server.address) as other:  # by now the server knows that it has left
            other.open()
        for version in ("1", "2"):
            operator.unload(f"letters/{version}")
        assert second.next() == "NOT_SERVING"
        server.terminate()
        assert all_of_it.next() == "NOT_SERVING"
        assert server.wait() == 0


def test_watchers_who_do_not_read_hold_nobody_up(start_server: Start) -> None:
    server = start_server(drain_seconds=5)
    with http2(server.address, window=0) as deaf, operate(server) as operator:
        for service in ("", MODEL, "keepgate.v1.Sequences"):
            request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            deaf.wait_headers(deaf.call(WATCH, request))  # the answer itself has no window
        assert not operator.reload().refused
        with connect(server.address) as wire:
            watcher = Watcher(wire, MODEL)
            assert watcher.next() == "SERVING"
            operator.unload("letters/1")
            operator.unload("letters/2")
            assert watcher.next() == "NOT_SERVING"
        assert server.stop() == 0
    assert '"event": "stopped"' in server.log()
