"""The gRPC servers: what they offer, where they listen, and how they treat connections."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
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
from keepgate.rpc.interceptors import CallGuard
from keepgate.rpc.native import ModelsServicer, SequencesServicer
from keepgate.sequences import Sequences

SERVICES = (
    sequences_pb2.DESCRIPTOR.services_by_name["Sequences"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["Models"].full_name,
)
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name


def options(settings: Settings) -> list[tuple[str, int]]:
    milliseconds = 1_000
    age = settings.connection_age_seconds
    return [
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


def add_services(server: grpc.aio.Server, sequences: Sequences) -> health.aio.HealthServicer:
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


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(server: grpc.aio.Server, setting: str, address: str) -> int:
    """The port that the server listens on."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"{setting}: cannot listen on {address}: is it in use?") from error
    if not port:
        raise ListenError(f"{setting}: cannot listen on {address}")
    return int(port)


async def start_admin(settings: Settings, servicer: AdminServicer) -> tuple[grpc.aio.Server, str]:
    """The server of the Admin service, for which no drain waits, and its address, "" if it is turned off."""
    server = grpc.aio.server(interceptors=(CallGuard(settings.max_calls),), options=options(settings))
    address = settings.admin_address
    if address:
        admin_pb2_grpc.add_AdminServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        reflection.enable_server_reflection((ADMIN, reflection.SERVICE_NAME), server)
        port = listen(server, "admin_address", address)
        address = f"{address.rpartition(':')[0]}:{port}"
        await server.start()
    return server, address
