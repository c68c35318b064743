"""The Admin service: where it is, the commands that call it, and the drain."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from keepgate.config import load_settings
from keepgate.errors import ConfigError
from keepgate_protos.v1 import admin_pb2, admin_pb2_grpc
from keepgate_protos.v1 import sequences_pb2 as pb
from support.commands import keepgate
from support.operator import loaded, operate, wait_for
from support.repositories import characters_spec, write_model, write_repository
from support.servers import ServerProcess
from support.wire import DEADLINE, Wire, connect, failure, inputs

Start = Callable[..., ServerProcess]
HANGING_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void hang(void) { while (access(getenv("HANGS_IF"), F_OK) == 0) sleep(1); }
int fsync(int file) { hang(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file); }
int fdatasync(int file) { hang(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file); }
"""
"""A disk that takes no more writes, as long as a file is there."""


def test_it_is_on_a_listener_of_its_own(server: ServerProcess) -> None:
    assert server.admin_address != server.address
    with connect(server.address) as wire:
        stub: Any = admin_pb2_grpc.AdminStub(wire.channel)  # type: ignore[no-untyped-call]
        version = {"name": "letters", "version": "1"}
        for call, request in (
            (stub.Reload, admin_pb2.ReloadRequest()),
            (stub.Drain, admin_pb2.DrainRequest()),
            (stub.Load, admin_pb2.LoadRequest(**version)),
            (stub.Unload, admin_pb2.UnloadRequest(**version)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=DEADLINE)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "keepgate.v1.Admin" not in reflected(wire.channel)
    with connect(server.admin_address) as wire:
        with pytest.raises(grpc.RpcError) as caught:
            wire.open()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "keepgate.v1.Admin" in reflected(wire.channel)
        assert "keepgate.v1.Sequences" not in reflected(wire.channel)


def reflected(channel: grpc.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    return {service.name for service in answer.list_services_response.service}


def test_it_can_be_turned_off(start_server: Start) -> None:
    server = start_server(admin_address="")
    assert server.admin_address == ""
    with connect(server.address) as wire:
        assert wire.step(wire.open(), "abc").position == 3
    assert server.stop() == 0


def test_an_address_in_use_is_an_error(start_server: Start, server: ServerProcess) -> None:
    with pytest.raises(RuntimeError, match="admin_address: cannot listen on") as caught:
        start_server(admin_address=server.admin_address)
    assert f"{server.admin_address}: is it in use?" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:8003", "[::1]:8003", "0.0.0.0:65535", ""])
def test_addresses(address: str) -> None:
    assert load_settings(admin_address=address).admin_address == address


@pytest.mark.parametrize(
    "address", ["8003", ":8003", "host", "host:", "host:65536", "::1:8003", "a b:1", "h:1/x"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match=r"admin_address: got '.*'\. Expected host:port"):
        load_settings(admin_address=address)


def test_commands(start_server: Start, tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models")
    server = start_server(models=models)
    where: dict[str, Any] = {"KEEPGATE_ADMIN_ADDRESS": server.admin_address}
    assert keepgate("reload", **where).stdout == "nothing changed\n"
    with connect(server.address) as wire:
        wire.open()
        write_model(models, "letters", 3, characters_spec("cifg"))
        shutil.rmtree(models / "letters" / "2")
        shutil.rmtree(models / "ids")
        assert keepgate("reload", "--admin", server.admin_address).stdout.splitlines() == [
            "loaded letters/3",
            "retired ids/1",
            "retired letters/2, 1 session",
            "unloaded ids/1",
        ]
        listed = keepgate("list", "--server", server.address).stdout
        assert "1 (retired)" in listed
        assert "retired: takes no new sessions" in keepgate("show", "letters/2", "-s", server.address).stdout
        assert keepgate("unload", "letters/2", **where).stdout == "retired letters/2, 1 session\n"
        assert keepgate("unload", "vectors/1", **where).stdout == "unloaded vectors/1\n"
        assert "vectors/1" not in loaded(wire)
        assert keepgate("load", "vectors/1", **where).stdout == "loaded vectors/1 in fp32\n"
        bad = write_model(models, "letters", 4, characters_spec("cifg"))
        bad.write_bytes(b"123")
        refused = keepgate("reload", code=1, **where)
        assert refused.stdout == "nothing changed\n"
        assert f"refused:\n{bad}: truncated" in refused.stderr
        assert f"{bad}: truncated" in keepgate("load", "letters/4", code=1, **where).stderr
        assert "letters/2" in keepgate("unload", "ids/1", code=1, **where).stderr
        assert keepgate("drain", **where).stdout == "draining 0 calls, 1 session, 20 s at most\n"
    assert server.wait() == 0
    assert "is not reachable" in keepgate("reload", code=1, **where).stderr
    for wrong in ("letters", "letters/", "/1", ""):
        assert "expected NAME/VERSION" in keepgate("load", wrong, code=2, **where).stderr
        assert "expected NAME/VERSION" in keepgate("unload", wrong, code=2, **where).stderr
    assert "expected host:port" in keepgate("drain", "-a", "", code=2).stderr


def test_a_drain_by_call_is_that_by_signal(start_server: Start) -> None:
    server = start_server(drain_seconds=60)
    with connect(server.address) as wire, operate(server) as operator:
        session, other = wire.open(), wire.open()
        request = pb.GenerateRequest(session_id=session, prompt=inputs("a"), max_tokens=3_000)
        call = wire.sequences.Generate(request, timeout=DEADLINE)
        next(call)
        answer = operator.drain()
        assert (answer.calls, answer.sessions, answer.seconds) == (1, 2, 60)
        wait_for(lambda: not is_serving(wire))
        assert failure(wire.open).reason == "DRAINING"
        assert failure(operator.reload).reason == "DRAINING"
        assert operator.drain().calls == 1  # the second one hurries nobody
        assert wire.step(other, "a", 0).position == 1
        assert len(list(call)) == 2_999
        assert server.wait() == 0
    assert '"event": "stopped"' in server.log()


def is_serving(wire: Wire) -> bool:
    stub = health_pb2_grpc.HealthStub(wire.channel)
    status = stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)


def test_a_drain_leaves_nothing_unstored(start_server: Start, tmp_path: Path) -> None:
    settings = {"store": f"sqlite:{tmp_path / 'sessions'}", "durability": "everysec"}
    server = start_server(**settings)
    with connect(server.address) as wire, operate(server) as operator:
        sessions = [wire.open() for _ in range(50)]
        for session in sessions:
            wire.step(session, "abc", 0)
        operator.drain()
        assert server.wait() == 0
    with connect(start_server(**settings).address) as wire:
        assert [wire.position(session) for session in sessions] == [3] * len(sessions)


@pytest.mark.parametrize("second_signal", [False, True])
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_store_that_hangs_does_not_keep_the_server(
    tmp_path: Path, repository: Path, second_signal: bool
) -> None:
    source, library, hangs = tmp_path / "disk.c", tmp_path / "disk.so", tmp_path / "hangs"
    source.write_text(HANGING_DISK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    settings = {
        "models": repository,
        "store": f"sqlite:{tmp_path / 'sessions'}",
        "durability": "always",
        "drain_seconds": 3_600 if second_signal else 0.5,
    }
    extra = {"LD_PRELOAD": str(library), "HANGS_IF": str(hangs)}
    server = ServerProcess(tmp_path / "server", settings, extra).wait_ready()
    try:
        with connect(server.address) as wire:
            session = wire.open()
            wire.step(session, "abc", 0)
            hangs.touch()
            step = wire.sequences.Step.future(
                pb.StepRequest(session_id=session, inputs=inputs("d"), position=3), timeout=DEADLINE
            )
            wait_for(lambda: wire.position(session) == 4)  # computed, and not acknowledged
            server.terminate()
            if second_signal:
                wait_for(lambda: '"event": "draining"' in server.log())
                server.terminate()
            assert failure(step.result).reason == "DRAINING"
        assert server.wait() == 1
        assert '"event": "sessions not stored"' in server.log()
        assert '"event": "the store hangs"' in server.log()
        assert "Traceback" not in server.log()
    finally:
        if server.process.poll() is None:
            server.kill()
    hangs.unlink()
    server = ServerProcess(tmp_path / "server", settings).wait_ready()
    with connect(server.address) as wire:
        assert wire.position(session) in (3, 4)
        assert wire.step(session, "d", 3).position == 4
    server.kill()
