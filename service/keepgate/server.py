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
from typing import Any

import grpc
import structlog
from keepgate_kernels import cpu_info

from keepgate import __version__, memory, ready
from keepgate.config import Settings, load_settings
from keepgate.errors import KeepgateError
from keepgate.keeper import Keeper
from keepgate.logs import configure_logs
from keepgate.models.networks import present
from keepgate.models.registry import LoadReport, load_repository
from keepgate.rpc.admin import AdminServicer
from keepgate.rpc.guard import CallGuard
from keepgate.rpc.health import HealthServicer
from keepgate.rpc.listen import SERVICES, add_services, join, listen, options, start_admin
from keepgate.rpc.readiness import Readiness
from keepgate.security.security import Security
from keepgate.sequences import Sequences
from keepgate.sessions.stores import open_store, spill_store
from keepgate.sessions.stores.base import Store
from keepgate.signals import Signals
from keepgate.swap import Swap, make_ready
from keepgate.telemetry.start import Telemetry
from keepgate.watch import Watch

EXPIRY_SECONDS = 0.5
"""How often idle sessions, and models that nobody uses any more, are looked for. A session is refused at its
deadline, however late the search."""
FLUSH_SECONDS = 1.0
"""What calls that outlive the drain, or were cut off, have to hear that it is over; and what the store gets
to take the rest, if the drain has used its time up."""
STOP_SECONDS = 5.0
"""What a listener, a batch and the stores get to come to an end; then the process ends without them."""
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
    if `ready_file` cannot be written, there is no CUDA device where `device` wants one, `precision` names a
    model that is not there, or tokens or certificates cannot be read, LostDeviceError if a device fails.
    """
    configure_logs(settings.log_format, settings.log_level)
    settings = settings.model_copy(update={"device": present(settings.device)})
    sys.setswitchinterval(SWITCH_SECONDS)
    memory.steady()
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    begin = time.perf_counter()
    if settings.ready_file is not None:
        ready.check(settings.ready_file)  # loading the models takes a while
    telemetry = Telemetry(settings)
    security = Security(settings, telemetry.calls)
    report = _load_models(settings)
    registry = report.registry
    sequences = Sequences(registry, settings, Keeper(registry, settings, _store(settings), spill_store()))
    swap = Swap(sequences, report.refused)
    try:
        await sequences.recover()
        guard = CallGuard(settings.max_calls, telemetry.calls)
        server = grpc.aio.server(interceptors=security.interceptors, options=options(settings))
        status = add_services(server, guard, sequences, swap)
        port = listen(server, "host, port", join(settings.host, settings.port), security.credentials())
        signals = Signals(swap, security)  # before anyone can know that the server is ready
        admin = AdminServicer(sequences, swap, guard, signals.first.set)
        admin_server, admin_address = await start_admin(settings, admin, telemetry.calls, security)
        http_address = await telemetry.start(sequences, status)
        await server.start()
        await Readiness(status, settings, registry, swap).begin(SERVICES)
        address = join(settings.host, port)
        memory.settle()
        if settings.ready_file is not None:
            ready.write(settings.ready_file, address)
        seconds = round(time.perf_counter() - begin, 3)
        log.info(
            "ready",
            address=address,
            admin=admin_address,
            http=http_address,
            version=__version__,
            kernel=cpu_info()["rung"],
            threads=settings.thread_count,
            pid=os.getpid(),
            seconds=seconds,
        )
        security.warn()
        security.start()
        background = [asyncio.ensure_future(_expire(sequences, swap))]
        if settings.watch_seconds:
            background.append(asyncio.ensure_future(_watch(settings, swap)))
        try:
            await _until_stopped(settings, server, sequences, guard, status, signals)
            await _stop_server(admin_server)
            sequences.compute.check()
            log.info("stopped")
        finally:
            for task in background:
                task.cancel()
            security.stop()
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        await telemetry.stop()
        await swap.close()
        await _stop(sequences)


def _load_models(settings: Settings) -> LoadReport:
    report = load_repository(
        settings.models,
        max_bytes=settings.max_model_bytes,
        slots=settings.slots,
        precision=settings.precision,
        threads=settings.thread_count,
        device=settings.device,
    )
    for error in report.refused:
        log.error("model refused", error=str(error))
    for model in report.registry:
        make_ready(model)
    return report


def _store(settings: Settings) -> Store | None:
    """Where durable sessions are kept, if anywhere. Raises StoreError."""
    if not settings.store:
        return None
    server_id = secrets.token_hex(SERVER_ID_BYTES)
    store = open_store(settings.store, server_id=server_id, lease_seconds=settings.lease_seconds)
    log.info("store opened", store=store.describe(), durability=settings.durability.value)
    return store


async def _until_stopped(
    settings: Settings,
    server: grpc.aio.Server,
    sequences: Sequences,
    guard: CallGuard,
    status: HealthServicer,
    signals: Signals,
) -> None:
    await _first_of(signals.first.wait(), sequences.compute.lost.wait(), None)
    seconds = 0.0 if sequences.compute.lost.is_set() else settings.drain_seconds
    end = time.monotonic() + seconds
    log.info("draining", calls=guard.in_flight, seconds=seconds)
    sequences.drain()
    status.enter_graceful_shutdown()
    await _first_of(guard.wait_idle(), signals.second.wait(), seconds)
    if guard.in_flight:
        log.warning("calls cut off", calls=guard.in_flight)
        guard.cut()
    await _stop_server(server)
    # All that was answered up to here is in the store before the end, if the store works.
    left = 0.0 if signals.second.is_set() else end - time.monotonic()
    if not await _first_of(sequences.flush(), signals.second.wait(), max(left, FLUSH_SECONDS)):
        log.error("sessions not stored", reason="the store did not take them before the drain's end")


async def _stop_server(server: grpc.aio.Server) -> None:
    """End its calls, and wait for that so long at most."""
    stop = asyncio.ensure_future(server.stop(FLUSH_SECONDS))
    done, _ = await asyncio.wait([stop], timeout=FLUSH_SECONDS + STOP_SECONDS)
    if not done:
        log.error("a listener does not stop", seconds=FLUSH_SECONDS + STOP_SECONDS)


async def _first_of(
    wanted: Coroutine[Any, Any, object], other: Coroutine[Any, Any, object], seconds: float | None
) -> bool:
    """Wait for either, and so long at most unless it is None; whether what is wanted came. Raises what that
    raises."""
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


async def _watch(settings: Settings, swap: Swap) -> None:
    watch = Watch(swap, settings.models, seconds=settings.watch_seconds, max_bytes=settings.max_model_bytes)
    with contextlib.suppress(asyncio.CancelledError):
        await watch.run()


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
