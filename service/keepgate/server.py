"""The server process: start, serve, drain, stop. `python -m keepgate.server` takes its settings
from the environment; the command `keepgate serve` is the same with flags."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from keepgate_kernels import cpu_info
from keepgate_protos.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sequences_pb2,
    sequences_pb2_grpc,
)

from keepgate import __version__, memory
from keepgate.config import Settings, load_settings
from keepgate.errors import ConfigError, KeepgateError, ListenError
from keepgate.keeper import Keeper
from keepgate.logs import configure_logs
from keepgate.models.registry import Registry, load_repository
from keepgate.rpc.admin import AdminServicer
from keepgate.rpc.interceptors import CallGuard
from keepgate.rpc.native import ModelsServicer, SequencesServicer
from keepgate.sequences import Sequences
from keepgate.sessions.stores import open_store, spill_store
from keepgate.sessions.stores.base import Store
from keepgate.signals import Signals
from keepgate.swap import Swap, make_ready

SERVICES = (
    sequences_pb2.DESCRIPTOR.services_by_name["Sequences"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["Models"].full_name,
)
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
EXPIRY_SECONDS = 0.5
"""How often idle sessions, and models that nobody uses any more, are looked for. A session is refused at its
deadline, however late the search."""
FLUSH_SECONDS = 1.0
"""What calls that outlive the drain, or were cut off, have to hear that it is over; and what the store gets
to take the rest, if the drain has used its time up."""
STOP_SECONDS = 5.0
"""What a batch and the stores get to come to an end; then the process ends without them."""
HUNG = 1
"""Exit code of a server that did not wait for its store."""
SWITCH_SECONDS = 5e-4
"""How long the event loop may keep the GIL from the compute thread; Python's default is ten times
that, several times a batch."""

SERVER_ID_BYTES = 8

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal stops at once.

    Raises RepositoryError if no model can serve, ListenError if the address is taken, ConfigError
    if `ready_file` cannot be written or `precision` names a model that is not there.
    """
    configure_logs(settings.log_format, settings.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    memory.steady()
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    begin = time.perf_counter()
    if settings.ready_file is not None:
        _check_ready_file(settings.ready_file)  # loading the models takes a while
    registry = _load_models(settings)
    sequences = Sequences(registry, settings, Keeper(registry, settings, _store(settings), spill_store()))
    swap = Swap(sequences)
    try:
        await sequences.recover()
        guard = CallGuard(settings.max_calls)
        server = grpc.aio.server(interceptors=(guard,), options=_options(settings))
        status = _add_services(server, sequences)
        port = _listen(server, "host, port", _address(settings.host, settings.port))
        signals = Signals(swap)  # before anyone can know that the server is ready
        admin = AdminServicer(sequences, swap, guard, signals.first.set)
        admin_server, admin_address = await _start_admin(settings, admin)
        await server.start()
        for name in ("", *SERVICES):
            await status.set(name, health_pb2.HealthCheckResponse.SERVING)
        address = _address(settings.host, port)
        memory.settle()
        if settings.ready_file is not None:
            _write_ready_file(settings.ready_file, address)
        seconds = round(time.perf_counter() - begin, 3)
        log.info(
            "ready",
            address=address,
            admin=admin_address,
            version=__version__,
            kernel=cpu_info()["rung"],
            threads=settings.thread_count,
            pid=os.getpid(),
            seconds=seconds,
        )
        expiry = asyncio.ensure_future(_expire(sequences, swap))
        try:
            await _until_stopped(settings, server, sequences, guard, status, signals)
            await admin_server.stop(FLUSH_SECONDS)
            log.info("stopped")
        finally:
            expiry.cancel()
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        await swap.close()
        await _stop(sequences)


def _load_models(settings: Settings) -> Registry:
    report = load_repository(
        settings.models,
        max_bytes=settings.max_model_bytes,
        slots=settings.slots,
        precision=settings.precision,
        threads=settings.thread_count,
    )
    for error in report.refused:
        log.error("model refused", error=str(error))
    for model in report.registry:
        make_ready(model)
    return report.registry


def _store(settings: Settings) -> Store | None:
    """Where durable sessions are kept, if anywhere. Raises StoreError."""
    if not settings.store:
        return None
    server_id = secrets.token_hex(SERVER_ID_BYTES)
    store = open_store(settings.store, server_id=server_id, lease_seconds=settings.lease_seconds)
    log.info("store opened", store=store.describe(), durability=settings.durability.value)
    return store


def _options(settings: Settings) -> list[tuple[str, int]]:
    milliseconds = 1_000
    return [
        ("grpc.so_reuseport", 0),  # two servers on a port must be an error, not a lottery
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # What the server has computed it can send; the client's own limit holds there.
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * milliseconds)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout_seconds * milliseconds)),
        # Any ping in flight counts, not only the keepalive's: one that measures bandwidth holds that back.
        ("grpc.http2.ping_timeout_ms", int(settings.keepalive_timeout_seconds * milliseconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may ping as often as we do; faster is punished with GOAWAY.
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            int(settings.keepalive_seconds * milliseconds) // 2,
        ),
    ]


def _add_services(server: grpc.aio.Server, sequences: Sequences) -> health.aio.HealthServicer:
    sequences_pb2_grpc.add_SequencesServicer_to_server(  # type: ignore[no-untyped-call]
        SequencesServicer(sequences), server
    )
    models_pb2_grpc.add_ModelsServicer_to_server(  # type: ignore[no-untyped-call]
        ModelsServicer(sequences), server
    )
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return status


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(server: grpc.aio.Server, setting: str, address: str) -> int:
    """The port that the server listens on."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"{setting}: cannot listen on {address}: is it in use?") from error
    if not port:
        raise ListenError(f"{setting}: cannot listen on {address}")
    return int(port)


async def _start_admin(settings: Settings, servicer: AdminServicer) -> tuple[grpc.aio.Server, str]:
    """The server of the Admin service, for which no drain waits, and its address, "" if it is turned off."""
    server = grpc.aio.server(interceptors=(CallGuard(settings.max_calls),), options=_options(settings))
    address = settings.admin_address
    if address:
        admin_pb2_grpc.add_AdminServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        reflection.enable_server_reflection((ADMIN, reflection.SERVICE_NAME), server)
        port = _listen(server, "admin_address", address)
        address = f"{address.rpartition(':')[0]}:{port}"
        await server.start()
    return server, address


def _check_ready_file(path: Path) -> None:
    """Raises ConfigError if the file could not be written."""
    if path.is_dir():
        raise ConfigError(f"ready_file: {path} is a directory, expected a file")
    scratch = _scratch(path)
    try:
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise ConfigError(f"ready_file: {path} cannot be written: {error.strerror}") from error


def _write_ready_file(path: Path, address: str) -> None:
    """Atomically: who sees the file sees all of it. Raises ConfigError."""
    scratch = _scratch(path)
    try:
        scratch.write_text(address + "\n")
        scratch.replace(path)
    except OSError as error:
        raise ConfigError(f"ready_file: {path} cannot be written: {error.strerror}") from error


def _scratch(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


async def _until_stopped(
    settings: Settings,
    server: grpc.aio.Server,
    sequences: Sequences,
    guard: CallGuard,
    status: health.aio.HealthServicer,
    signals: Signals,
) -> None:
    await signals.first.wait()
    end = time.monotonic() + settings.drain_seconds
    log.info("draining", calls=guard.in_flight, seconds=settings.drain_seconds)
    sequences.drain()
    await status.enter_graceful_shutdown()
    await _first_of(guard.wait_idle(), signals.second.wait(), settings.drain_seconds)
    if guard.in_flight:
        log.warning("calls cut off", calls=guard.in_flight)
        guard.cut()
    await server.stop(FLUSH_SECONDS)
    # All that was answered up to here is in the store before the end, if the store works.
    left = 0.0 if signals.second.is_set() else end - time.monotonic()
    if not await _first_of(sequences.flush(), signals.second.wait(), max(left, FLUSH_SECONDS)):
        log.error("sessions not stored", reason="the store did not take them before the drain's end")


async def _first_of(
    wanted: Coroutine[Any, Any, object], other: Coroutine[Any, Any, object], seconds: float
) -> bool:
    """Wait for either, and so long at most; whether what is wanted came. Raises what that raises."""
    waits = [asyncio.ensure_future(wanted), asyncio.ensure_future(other)]
    done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if waits[0] not in done:
        return False
    await waits[0]
    return True


async def _stop(sequences: Sequences) -> None:
    """Let go of the stores. If one hangs, this is the end of the process: its thread would keep it alive."""
    try:
        await asyncio.wait_for(sequences.stop(), STOP_SECONDS)
    except TimeoutError:
        log.error("the store hangs", seconds=STOP_SECONDS)
        logging.shutdown()
        os._exit(HUNG)


async def _expire(sequences: Sequences, swap: Swap) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            count = sequences.expire()
            swap.expire()
            if count:
                log.debug("sessions expired", sessions=count)


def main() -> int:
    """Serve with settings from the environment; 1 if the server could not start."""
    try:
        run(load_settings())
    except KeepgateError as error:
        print(f"keepgate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
