"""Every error of the server, on the wire and as the client's exception: none is missing on either side."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from keepgate.errors import RequestError, RetryLaterError, SessionClosedError
from keepgate.rpc.status import CODES, to_status
from keepgate_client import InvalidArgumentError, ServerError, service_config
from keepgate_client._reasons import REASONS
from keepgate_client._rpc import channel_options, error_from_status
from keepgate_protos.v1 import admin_pb2, models_pb2, sequences_pb2

SAMPLES: dict[str, Any] = {"str": "poem", "int": 3, "float": 2.5, "int | str": "poem"}
SAMPLES["SessionGoneError"] = SessionClosedError("poem")
OIP = {"SequenceNotStartedError", "QueueTimeoutError", "UnsupportedError", "RepositoryControlError"}
"""Clients of keepgate.v1 never get these."""
MORE = {
    grpc.StatusCode.NOT_FOUND: "ResourceInfo",
    grpc.StatusCode.ALREADY_EXISTS: "ResourceInfo",
    grpc.StatusCode.FAILED_PRECONDITION: "PreconditionFailure",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "QuotaFailure",
    grpc.StatusCode.INVALID_ARGUMENT: "BadRequest",
}
LARGEST_TRAILERS = 8 << 10


def made(kind: type[RequestError], samples: dict[str, Any]) -> RequestError:
    """An error of this kind, whatever it takes."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    values = (
        "inputs.text" if parameter.name == "field" else samples[str(parameter.annotation)]
        for parameter in parameters
    )
    return kind(*values)


def leaves(kind: type[RequestError]) -> list[type[RequestError]]:
    below = kind.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [kind]


KINDS = leaves(RequestError)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.__name__ not in OIP], ids=lambda kind: kind.__name__)
def test_the_client_gets_all_that_the_server_tells(kind: type[RequestError]) -> None:
    error = made(kind, SAMPLES)
    caught = error_from_status(to_status(error))
    assert type(caught) is REASONS[error.reason]
    assert type(caught) is not ServerError
    assert (caught.code, caught.reason, str(caught)) == (CODES[kind], error.reason, str(error))
    assert caught.metadata == error.metadata
    told = caught.details
    assert caught.retry_after == (error.retry_after if isinstance(error, RetryLaterError) else None)
    expected = MORE.get(caught.code)
    assert (told.resource is not None) == (expected == "ResourceInfo")
    assert bool(told.preconditions) == (expected == "PreconditionFailure")
    assert bool(told.quotas) == (expected == "QuotaFailure")
    assert bool(told.violations) == isinstance(caught, InvalidArgumentError)
    if told.resource is not None:
        assert told.resource.name.startswith("poem")
        assert told.resource.kind == ("session" if "session_id" in error.metadata else "model")
    for quota in told.quotas:
        assert quota.description == str(error)
        assert quota.subject
    for precondition in told.preconditions:
        assert precondition.kind == error.reason
        assert precondition.description == str(error)
        assert precondition.subject


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_longest_error_fits_into_trailers(kind: type[RequestError]) -> None:
    for letter in "xä%":
        error = made(kind, {**SAMPLES, "str": letter * 5_000})
        assert len(quote(str(error))) + to_status(error).ByteSize() * 4 / 3 < LARGEST_TRAILERS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_details_of_each_are_documented(kind: type[RequestError]) -> None:
    error = made(kind, SAMPLES)
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    (row,) = re.findall(rf"^\| {error.reason} \| .*", text, re.MULTILINE)
    more = row.split(" | ")[3]
    kinds = [detail.type_url.rpartition(".")[2] for detail in to_status(error).details]
    assert re.findall(r"[A-Z][a-z]+[A-Z][A-Za-z]+", more) == kinds[1:]
    assert set(re.findall(r"`(\w+)`", more)) == set(error.metadata)


def test_grpc_repeats_only_what_changes_nothing() -> None:
    (config,) = json.loads(service_config())["methodConfig"]
    names = {
        service.full_name: {method.name for method in service.methods}
        for file in (sequences_pb2, models_pb2, admin_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    for entry in config["name"]:
        if entry["service"].startswith("keepgate."):
            assert entry.get("method", "List") in names[entry["service"]]
    repeated = {entry["method"] for entry in config["name"] if entry["service"] == "keepgate.v1.Sequences"}
    assert repeated == {"Describe", "List", "Export"}
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_the_two_kinds_of_retries_do_not_multiply() -> None:
    assert "grpc.service_config" not in dict(channel_options())


def test_grpc_takes_the_service_config() -> None:
    options = [("grpc.service_config", service_config())]
    with grpc.insecure_channel("127.0.0.1:1", options=options) as channel:
        call: Any = channel.unary_unary("/keepgate.v1.Models/List")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # one that does not parse is INTERNAL
