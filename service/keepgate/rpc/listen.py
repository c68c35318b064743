"""The gRPC servers: what they offer, where they listen, and how they treat connections."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from keepgate_protos.oip import grpc_service_pb2, grpc_service_pb2_grpc
from keepgate_protos.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    sequences_pb2,
    sequences_pb2_grpc,
)

from keepgate.config import Settings
from keepgate.errors import ListenError
from keepgate.rpc.admin import AdminServicer
from keepgate.rpc.guard import CallGuard
from keepgate.rpc.health import SERVICE_NAME, HealthServicer
from keepgate.rpc.native import ModelsServicer, SequencesServicer
from keepgate.rpc.oip.servicer import InferenceServicer
from keepgate.security.security import Security
from keepgate.sequences import Sequences
from keepgate.swap import Swap
from keepgate.telemetry.calls import Calls

SERVICES = (
    sequences_pb2.DESCRIPTOR.services_by_name["Sequences"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["Models"].full_name,
    grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name


def options(settings: Settings) -> list[tuple[str, int]]:
    milliseconds = 1_000
    calls = settings.max_connection_calls
    age = settings.connection_age_seconds
    return [
        # Both, for between them gRPC refuses at random.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        *((("grpc.max_concurrent_streams", calls),) if calls else ()),
        *(_ageing(age, settings.connection_age_grace_seconds) if age else []),
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


def _ageing(age: float, grace: float) -> list[tuple[str, int]]:
    """gRPC says GOAWAY to a connection that is too old, give or take a tenth. A stream that began just before
    ends by itself an age later, all its steps answered; only then does the grace begin."""
    return [
        ("grpc.max_connection_age_ms", int(age * 1_000)),
        ("grpc.max_connection_age_grace_ms", int((age * 1.2 + grace) * 1_000)),
    ]


def add_services(
    server: grpc.aio.Server, guard: CallGuard, sequences: Sequences, swap: Swap
) -> HealthServicer:
    """Everything that clients may call. guard: around what is Keepgate's own."""
    guarded = guard.around(server)
    status = HealthServicer()
    sequences_pb2_grpc.add_SequencesServicer_to_server(  # type: ignore[no-untyped-call]
        SequencesServicer(sequences), guarded
    )
    models_pb2_grpc.add_ModelsServicer_to_server(  # type: ignore[no-untyped-call]
        ModelsServicer(sequences), guarded
    )
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(  # type: ignore[no-untyped-call]
        InferenceServicer(sequences, swap, status), guarded
    )
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection((*SERVICES, SERVICE_NAME, reflection.SERVICE_NAME), server)
    return status


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(
    server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    """The port that the server listens on. credentials: of TLS; None for plain text."""
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ListenError(f"{setting}: cannot listen on {address}: is it in use?") from error
    if not port:
        raise ListenError(f"{setting}: cannot listen on {address}")
    return int(port)


async def start_admin(
    settings: Settings, servicer: AdminServicer, calls: Calls, security: Security
) -> tuple[grpc.aio.Server, str]:
    """The server of the Admin service, for which no drain waits, and its address, "" if it is turned off."""
    server = grpc.aio.server(interceptors=security.admin_interceptors, options=options(settings))
    address = settings.admin_address
    if address:
        guarded = CallGuard(settings.max_calls, calls).around(server)
        admin_pb2_grpc.add_AdminServicer_to_server(servicer, guarded)  # type: ignore[no-untyped-call]
        reflection.enable_server_reflection((ADMIN, reflection.SERVICE_NAME), server)
        port = listen(server, "admin_address", address, security.admin_credentials())
        address = f"{address.rpartition(':')[0]}:{port}"
        await server.start()
    return server, address
