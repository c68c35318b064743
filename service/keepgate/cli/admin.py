"""keepgate reload, load, unload, drain: what an operator tells a server that runs."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepgate.cli import access
from keepgate.cli.output import fail, server_address, text_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_ADDRESS = "127.0.0.1:8003"

Admin = Annotated[
    str,
    typer.Option(
        "--admin",
        "-a",
        envvar="KEEPGATE_ADMIN_ADDRESS",
        metavar="ADDRESS",
        help="The server's admin_address, host:port.",
        callback=server_address,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0.001, help="Seconds to wait; the server goes on with it all the same."
    ),
]
Version = Annotated[
    str, typer.Argument(metavar="NAME/VERSION", help="The version of a model.", callback=text_argument)
]


def reload(admin: Admin = DEFAULT_ADDRESS, timeout: Timeout = 300.0) -> None:
    """Make a server's models agree with its repository; exit code 1 if a file was refused."""
    from keepgate_protos.v1 import admin_pb2

    answer = _call(admin, timeout, "Reload", admin_pb2.ReloadRequest())
    _print("loaded", answer.loaded)
    _print("retired", answer.retired)
    _print("unloaded", answer.unloaded)
    if not (answer.loaded or answer.retired or answer.unloaded):
        typer.echo("nothing changed")
    if answer.refused:
        fail("\n".join(["refused:", *(f"{file.path}: {file.fault}" for file in answer.refused)]))


def load(model: Version, admin: Admin = DEFAULT_ADDRESS, timeout: Timeout = 300.0) -> None:
    """Have a server load one version of its repository, or take a retired one back."""
    from keepgate_protos.v1 import admin_pb2

    name, version = _parts(model)
    answer = _call(admin, timeout, "Load", admin_pb2.LoadRequest(name=name, version=version)).model
    typer.echo(f"loaded {answer.name}/{answer.version} in {answer.precision}")


def unload(model: Version, admin: Admin = DEFAULT_ADDRESS, timeout: Timeout = 30.0) -> None:
    """Have a server retire one version, till it is loaded again; its sessions go on."""
    from keepgate_protos.v1 import admin_pb2

    name, version = _parts(model)
    answer = _call(admin, timeout, "Unload", admin_pb2.UnloadRequest(name=name, version=version))
    if answer.unloaded:
        typer.echo(f"unloaded {model}")
    else:
        typer.echo(f"retired {model}, {_sessions(answer.sessions)}")


def drain(admin: Admin = DEFAULT_ADDRESS, timeout: Timeout = 5.0) -> None:
    """Have a server finish what is in flight and end, as SIGTERM does; does not wait for the end."""
    from keepgate_protos.v1 import admin_pb2

    answer = _call(admin, timeout, "Drain", admin_pb2.DrainRequest())
    typer.echo(f"draining {answer.calls:,} calls, {_sessions(answer.sessions)}, {answer.seconds:g} s at most")


def _call(address: str, timeout: float, method: str, request: Any) -> Any:
    import grpc
    from keepgate_client._rpc import error_from_call
    from keepgate_protos.v1 import admin_pb2_grpc

    with access.channel(address) as (channel, metadata):
        stub = admin_pb2_grpc.AdminStub(channel)  # type: ignore[no-untyped-call]
        try:
            return getattr(stub, method)(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            fail(str(error_from_call(error, address)))


def _parts(model: str) -> tuple[str, str]:
    name, _, version = model.partition("/")
    if not (name and version):
        raise typer.BadParameter(f"got {model!r}, expected NAME/VERSION")
    return name, version


def _print(what: str, versions: Iterable[Any]) -> None:
    for each in versions:
        more = f", {_sessions(each.sessions)}" if each.sessions else ""
        typer.echo(f"{what} {each.name}/{each.version}{more}")


def _sessions(count: int) -> str:
    return f"{count:,} session{'' if count == 1 else 's'}"
