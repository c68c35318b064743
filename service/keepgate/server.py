"""The server process: start, serve, drain, stop. `python -m keepgate.server` takes its settings
from the environment; the command `keepgate serve` is the same with flags."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from keepgate_kernels import cpu_info
from keepgate_protos.v1 import models_pb2, models_pb2_grpc, sequences_pb2, sequences_pb2_grpc

from keepgate import __version__
from keepgate.config import Settings, load_settings
from keepgate.errors import ConfigError, KeepgateError, ListenError
from keepgate.keeper import Keeper
from keepgate.logs import configure_logs
from keepgate.models.registry import Registry, load_repository
from keepgate.rpc.interceptors import CallGuard
from keepgate.rpc.native import ModelsServicer, SequencesServicer
from keepgate.sequences import Sequences
from keepgate.sessions.stores import open_store, spill_store
from keepgate.sessions.stores.base import Store

SERVICES = (
    sequences_pb2.DESCRIPTOR.services_by_name["Sequences"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["Models"].full_name,
)
EXPIRY_SECONDS = 0.5
"""How often idle sessions are looked for. A session is refused at its deadline, however late the
search."""
FLUSH_SECONDS = 1.0
"""What calls that outlive the drain, or were cut off, have to hear that it is over."""
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
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    begin = time.perf_counter()
    if settings.ready_file is not None:
        _check_ready_file(settings.ready_file)  # loading the models takes a while
    registry = _load_models(settings)
    sequences = Sequences(registry, settings, Keeper(registry, settings, _store(settings), spill_store()))
    try:
        await sequences.recover()
        guard = CallGuard(settings.max_calls)
        server = grpc.aio.server(interceptors=(guard,), options=_options(settings))
        status = _add_services(server, sequences)
        port = _listen(server, settings)
        await server.start()
        for name in ("", *SERVICES):
            await status.set(name, health_pb2.HealthCheckResponse.SERVING)
        address = _address(settings.host, port)
        # What is here now stays: without it, full collections need not walk all that Numba made.
        gc.collect()
        gc.freeze()
        signals = _Signals()  # before anyone can know that the server is ready
        if settings.ready_file is not None:
            _write_ready_file(settings.ready_file, address)
        seconds = round(time.perf_counter() - begin, 3)
        log.info(
            "ready",
            address=address,
            version=__version__,
            kernel=cpu_info()["rung"],
            threads=settings.thread_count,
            pid=os.getpid(),
            seconds=seconds,
        )
        await _until_stopped(settings, server, sequences, guard, status, signals)
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        await sequences.stop()


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
        seconds = model.network.compile()
        log.info(
            "model loaded",
            model=model.key.name,
            version=model.key.version,
            parameters=model.spec.parameters,
            precision=model.network.precision,
            weight_bytes=model.network.weight_bytes,
            compile_seconds=round(seconds, 3),
        )
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


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    """The port that the server listens on."""
    address = _address(settings.host, settings.port)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"host, port: cannot listen on {address}: is it in use?") from error
    if not port:
        raise ListenError(f"host, port: cannot listen on {address}")
    return int(port)


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
    signals: _Signals,
) -> None:
    expiry = asyncio.ensure_future(_expire(sequences))
    try:
        await signals.first.wait()
        log.info("draining", calls=guard.in_flight, seconds=settings.drain_seconds)
        sequences.drain()
        await status.enter_graceful_shutdown()
        waits = [asyncio.ensure_future(guard.wait_idle()), asyncio.ensure_future(signals.second.wait())]
        await asyncio.wait(waits, timeout=settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if guard.in_flight:
            log.warning("calls cut off", calls=guard.in_flight)
            guard.cut()
        await server.stop(FLUSH_SECONDS)
        await _flush(sequences, settings.drain_seconds)  # what was answered up to the very end
        log.info("stopped")
    finally:
        expiry.cancel()


async def _flush(sequences: Sequences, seconds: float) -> None:
    """Have everything in the store before the end, if the store works."""
    try:
        await asyncio.wait_for(sequences.flush(), max(seconds, FLUSH_SECONDS))
    except TimeoutError:
        log.error("sessions not stored", reason="the store did not take them before the drain's end")


class _Signals:
    """The first SIGTERM or SIGINT since this was made, and the second."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._came)

    def _came(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _expire(sequences: Sequences) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            count = sequences.expire()
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
