"""keepgate info, health: this installation, and whether a server is well."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from typing import Annotated

import typer

from keepgate.cli import access
from keepgate.cli.output import Json, Server, console, fail, print_json


def info(as_json: Json = False) -> None:
    """Show processor, kernel and versions; asks no server."""
    import platform
    from importlib.metadata import version

    from keepgate_kernels import PRECISIONS, cpu_info
    from rich.table import Table

    from keepgate.cores import usable_cores

    facts = {
        "keepgate": version("keepgate"),
        **cpu_info(),
        "precisions": " ".join(PRECISIONS),
        "cuda": _cuda(),
        "usable_cores": str(usable_cores()),
    }
    facts.setdefault("python", platform.python_version())
    for package in ("numba", "llvmlite", "numpy", "grpcio", "protobuf"):
        facts.setdefault(package, version(package))
    if as_json:
        print_json(facts)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), value)
    console().print(table)


def _cuda() -> str:
    """The architecture of the CUDA device, or why there is none to use."""
    from keepgate_kernels import check_device
    from keepgate_kernels.errors import DeviceMissingError

    try:
        check_device("cuda")
    except DeviceMissingError as error:
        return f"none: {error.reason}"
    from keepgate_kernels.cuda.launch import architecture

    return architecture()


def health(
    server: Server,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="Seconds to wait for the answer.")
    ] = 2.0,
) -> None:
    """Ask whether a server is serving; exit code 0 if it is, 1 if not."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with access.channel(server) as (channel, metadata):
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            fail(f"{server} does not answer: {error.details()}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        fail(f"{server} answers {status}")
    typer.echo(status)
