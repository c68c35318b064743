"""A server in this process, with limits so small that every one is met, and calls to it over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from fuzz.campaign import FoundError
from fuzz.known import World, write_repository
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from keepgate.config import Settings, load_settings
from keepgate.errors import SessionGoneError, StepsExhaustedError
from keepgate.keeper import Keeper
from keepgate.logs import configure_logs
from keepgate.models.registry import load_repository
from keepgate.rpc.admin import AdminServicer
from keepgate.rpc.guard import CallGuard
from keepgate.rpc.health import HealthServicer
from keepgate.rpc.native import ModelsServicer, SequencesServicer
from keepgate.rpc.oip.servicer import InferenceServicer
from keepgate.sequences import Sequences
from keepgate.sessions.stores import spill_store
from keepgate.sessions.stores.sqlite import SqliteStore
from keepgate.swap import Swap, make_ready
from keepgate_protos.oip import grpc_service_pb2, grpc_service_pb2_grpc
from keepgate_protos.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sequences_pb2,
    sequences_pb2_grpc,
)
from keepgate_protos.v1 import sequences_pb2 as pb

SERVICES = [
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (sequences_pb2, "Sequences"),
        (models_pb2, "Models"),
        (admin_pb2, "Admin"),
        (grpc_service_pb2, "GRPCInferenceService"),
    )
]
LIMITS: dict[str, Any] = {
    "max_sessions": 6,
    "slots": 3,
    "retained_steps": 16,
    "snapshot_steps": 4,
    "max_pending_steps": 200,
    "max_batch": 4,
    "max_inputs_per_request": 40,
    "max_generated_tokens": 20,
    "max_stream_pending": 4,
    "max_message_bytes": 1 << 16,
    "max_model_bytes": 1 << 20,
    "max_calls": 50,
    "threads": 1,
}
DEADLINE = 10.0
"""Seconds after which a call counts as hung."""
SETTLE_SECONDS = 20.0
"""What work that nobody waits for may take to come to its end, and the store to be told."""
BUGS = frozenset(
    grpc.StatusCode[name]
    for name in ("UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE", "UNIMPLEMENTED", "DATA_LOSS")
)
IMPOSSIBLE = frozenset(("SESSION_MOVED", "SESSION_ELSEWHERE", "SESSION_MODEL", "STEPS_LOST", "INTERNAL"))
"""Reasons that one server whose store works never gives."""
MEANT = frozenset(("UNSUPPORTED", "QUEUE_TIMEOUT"))
"""Reasons that look like a bug's by their status, and are none."""
WRITE_CUT = "Internal error from Core"
"""What grpc.aio's client says of a stream that the server ended while the client wrote, as after a request
that does not parse: it makes that status up, and the server's is lost."""
CODES = {code.value[0]: code for code in grpc.StatusCode}
TASKS = 60
"""Tasks that a server at rest has, at most."""

Details = dict[str, str]


class _Errors(logging.Handler):
    """Collects what is logged as an error: a bug, here where nothing outside fails."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))


@dataclass
class Served:
    """A server, and what is seen of its answers."""

    channel: grpc.aio.Channel
    sequences: Sequences
    swap: Swap
    world: World
    seen: Counter[str]
    errors: _Errors

    async def unary(self, method: MethodDescriptor, request: bytes, patience: float) -> None:
        """One call with one answer. patience: seconds after which the client goes away."""
        call = self._open(method)(request, timeout=DEADLINE)
        await self._finish(method, request, self._unary(method, request, call), call, patience)

    async def server_stream(self, method: MethodDescriptor, request: bytes, patience: float) -> None:
        """One call with many answers."""
        call = self._open(method)(request, timeout=DEADLINE)
        await self._finish(method, request, self._read_all(call), call, patience)

    async def stream(self, method: MethodDescriptor, requests: list[bytes], patience: float) -> None:
        """A call with many requests, all sent at once."""
        call = self._open(method)(timeout=DEADLINE)
        await self._finish(method, b"", self._talk(method, call, requests), call, patience)

    def check_log(self) -> None:
        """Raises FoundError if the server logged an error."""
        if self.errors.texts:
            raise FoundError("logged as an error:\n" + "\n".join(self.errors.texts))

    async def rest(self) -> None:
        """Close all sessions and look whether anything stays behind. Raises FoundError."""
        sequences, begin = self.sequences, time.monotonic()
        while True:
            sequences.expire()
            for session in sequences.table.page(0, 1_000, "", -1.0)[0]:
                with contextlib.suppress(SessionGoneError):  # it expires in this very moment
                    await sequences.close(session)
            self.world.forget()
            left = self._left()
            if not left:
                break
            if time.monotonic() - begin > SETTLE_SECONDS:
                raise FoundError(f"with all sessions closed there remain: {left}")
            await asyncio.sleep(0.02)
        await self._all_models()
        self.check_log()

    def _left(self) -> dict[str, Any]:
        """What a server without sessions should not have."""
        sequences = self.sequences
        left: dict[str, Any] = {"sessions": len(sequences.table)}
        try:
            sequences.pending.check(sequences.settings.max_pending_steps)
        except StepsExhaustedError as error:
            left["pending"] = str(error)
        for model in sequences.registry:
            if not sequences.residents(model.key).is_unused:
                left["/".join(model.key)] = (
                    f"{model.network.slots.free} of {model.network.slots.capacity} slots"
                )
        tasks = len(asyncio.all_tasks())
        left["tasks"] = tasks if tasks > TASKS else 0
        return {name: what for name, what in left.items() if what}

    async def _all_models(self) -> None:
        """Take back what calls of Admin did."""
        for name, version in (("letters", "1"), ("letters", "2"), ("ids", "1"), ("vectors", "1")):
            await self.swap.load(name, version)

    def _open(self, method: MethodDescriptor) -> Any:
        path = f"/{method.containing_service.full_name}/{method.name}"
        if method.client_streaming:
            return self.channel.stream_stream(path)
        return self.channel.unary_stream(path) if method.server_streaming else self.channel.unary_unary(path)

    async def _finish(
        self, method: MethodDescriptor, request: bytes, answers: Any, call: Any, patience: float
    ) -> None:
        """Await the answers, or go away before; look at how the call ended. Raises FoundError."""
        name = method.name
        try:
            await asyncio.wait_for(answers, patience)
        except TimeoutError:
            call.cancel()
            self.seen[f"{name} left early"] += 1
            return
        except grpc.aio.AioRpcError as error:
            reason = _reason(error)
            if method.client_streaming and error.details() == WRITE_CUT:
                self.seen[f"{name} ended while the client wrote"] += 1
                return
            self.seen[f"{error.code().name} {reason}"] += 1
            if (error.code() in BUGS and reason not in MEANT) or reason in IMPOSSIBLE:
                raise FoundError(
                    f"{name} of {request!r}: {error.code().name} {reason}: {error.details()}"
                ) from error
            return
        self.seen["OK"] += 1

    async def _unary(self, method: MethodDescriptor, request: bytes, call: Any) -> None:
        data = await call
        answer = GetMessageClass(method.output_type)()
        answer.ParseFromString(data)
        self._learn(method, request, answer)

    async def _read_all(self, call: Any) -> None:
        async for data in call:
            pb.GenerateResponse.FromString(data)

    async def _talk(self, method: MethodDescriptor, call: Any, requests: list[bytes]) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # the server has ended it; reading tells why
            for request in requests:
                await call.write(request)
            await call.done_writing()
        count = 0
        async for data in call:
            count += 1
            if method.name == "ModelStreamInfer":
                self._look_at(grpc_service_pb2.ModelStreamInferResponse.FromString(data))
                continue
            answer = GetMessageClass(method.output_type)()
            answer.ParseFromString(data)
            if isinstance(answer, pb.StreamResponse) and answer.WhichOneof("result") == "step":
                self.world.moved(answer.session_id, answer.step.position)
            for status in _refusals(answer):
                code, reason = CODES[status.code], _info(status)
                self.seen[f"in-band {code.name} {reason}"] += 1
                if code in BUGS or reason in IMPOSSIBLE:
                    raise FoundError(f"in-band {code.name} {reason}: {status.message}")
            self.seen[f"in-band {answer.WhichOneof('result')}"] += 1
        if count != len(requests):
            raise FoundError(f"{len(requests)} steps in a stream got {count} answers")

    def _look_at(self, answer: grpc_service_pb2.ModelStreamInferResponse) -> None:
        """An answer of the other protocol's stream. Raises FoundError."""
        reason = answer.infer_response.parameters["keepgate_reason"].string_param
        self.seen[f"in-band {reason or 'OK'} of inference"] += 1
        if bool(answer.error_message) != bool(reason) or reason in IMPOSSIBLE:
            raise FoundError(f"in-band of inference: {reason}: {answer.error_message}")

    def _learn(self, method: MethodDescriptor, request: bytes, answer: Message) -> None:
        world = self.world
        session = getattr(answer, "session", None)
        if isinstance(session, pb.Session):
            world.opened(session)
        if isinstance(answer, pb.StepResponse | pb.ScoreResponse | pb.CloseResponse):
            asked = GetMessageClass(method.input_type)()
            asked.ParseFromString(request)
            world.moved(getattr(asked, "session_id", ""), answer.position)
            if isinstance(answer, pb.CloseResponse):
                world.closed(getattr(asked, "session_id", ""))
        if isinstance(answer, pb.ExportResponse):
            world.blobs.append(answer.blob)
        if isinstance(answer, pb.ListResponse) and answer.next_page_token:
            world.pages.append(answer.next_page_token)


def _refusals(answer: Any) -> Iterator[Any]:
    """The statuses in a stream's answer: that of all of it, or those of rows."""
    result = answer.WhichOneof("result")
    if result == "error":
        yield answer.error
    for row in getattr(getattr(answer, result), "errors", ()):
        yield row.status


@contextlib.asynccontextmanager
async def serve(seen: Counter[str]) -> AsyncIterator[Served]:
    """A server of small models with a store, and a connection to it."""
    configure_logs("json", "error")
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    with tempfile.TemporaryDirectory(prefix="keepgate-served-") as folder:
        models = write_repository(Path(folder) / "models")
        settings = load_settings(models=models, store=f"sqlite:{folder}/store", **LIMITS)
        sequences = _sequences(settings, Path(folder) / "store")
        swap = Swap(sequences)
        guard = CallGuard(settings.max_calls)
        size = ("grpc.max_receive_message_length", settings.max_message_bytes)
        server = grpc.aio.server(options=(size,))
        guarded = guard.around(server)
        sequences_pb2_grpc.add_SequencesServicer_to_server(  # type: ignore[no-untyped-call]
            SequencesServicer(sequences), guarded
        )
        models_pb2_grpc.add_ModelsServicer_to_server(ModelsServicer(sequences), guarded)  # type: ignore[no-untyped-call]
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            InferenceServicer(sequences, swap, HealthServicer()), guarded
        )
        drain = AdminServicer(sequences, swap, guard, lambda: None)  # a drain would be the end
        admin_pb2_grpc.add_AdminServicer_to_server(drain, guarded)  # type: ignore[no-untyped-call]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(channel, sequences, swap, World(), seen, errors)
        await server.stop(None)
        await swap.close()
        await sequences.stop()


def _sequences(settings: Settings, store: Path) -> Sequences:
    report = load_repository(settings.models, max_bytes=settings.max_model_bytes, slots=settings.slots)
    for model in report.registry:
        make_ready(model)
    # Not synced: a disk would be what is measured.
    keeper = Keeper(report.registry, settings, SqliteStore(store, synced=False), spill_store())
    return Sequences(report.registry, settings, keeper)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Of the ErrorInfo, which every error of Keepgate has."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return _info(status_pb2.Status.FromString(value))
    return "-"


def _info(status: Any) -> str:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return "-"
