"""docs/protocol.md: its examples do what they show, and it names every method, field and reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from keepgate.config import BUNDLED_MODELS
from keepgate.rpc.status import CODES, INTERNAL_REASON
from keepgate_protos.v1 import admin_pb2, models_pb2, sequences_pb2
from support import grpcurl
from support.servers import ServerProcess

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = DOCUMENT.read_text()
SERVICES = [
    service
    for file in (sequences_pb2, models_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]
METHODS = [method for service in SERVICES for method in service.methods]


def test_the_examples_do_what_they_show(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, {"models": BUNDLED_MODELS, "max_generated_tokens": 64}).wait_ready()
    try:
        addresses = {"localhost:8001": server.address, "localhost:8003": server.admin_address}
        for example in grpcurl.examples(TEXT):
            got = grpcurl.run(example, addresses[example.address])
            assert grpcurl.agrees(example.answers, got), (
                f"line {example.line}, {example.method}: got\n{json.dumps(got, indent=2, ensure_ascii=False)}"
            )
    finally:
        server.kill()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_has_an_example(method: object) -> None:
    shown = {example.method for example in grpcurl.examples(TEXT)}
    assert f"{method.containing_service.full_name}/{method.name}" in shown  # type: ignore[attr-defined]


def messages() -> dict[str, Descriptor]:
    """Every message of ours that a request can hold, by name."""
    found: dict[str, Descriptor] = {}
    wanted = [method.input_type for method in METHODS]
    while wanted:
        message = wanted.pop()
        if message.full_name.startswith("keepgate.") and message.name not in found:
            found[message.name] = message
            wanted += [field.message_type for field in message.fields if field.message_type]
    return found


@pytest.mark.parametrize("name", sorted(messages()))
def test_every_parameter_is_there(name: str) -> None:
    for field in messages()[name].fields:
        assert f"`{field.name}`" in TEXT, f"{name}.{field.name}"


def test_every_reason_says_what_to_do() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_]+) \| (.+?) \| (.+?) \| (.+?) \|$", TEXT, re.MULTILINE)
    told = {reason: status for reason, status, *_ in rows}
    expected = {error.reason: code.name for error, code in CODES.items()}
    assert told == expected | {INTERNAL_REASON: "INTERNAL"}


@pytest.mark.parametrize(
    ("expected", "got", "verdict"),
    [
        ({"a": "…", "b": 1}, {"a": 5, "b": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "…": "…"}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": "…"}, {"a": 1}, False),
        ([1, "…"], [1, 2, 3], True),
        ([1, "…"], [2, 2, 3], False),
        ([1], [1, 2], False),
        ({"a": 1.0}, {"a": 1.0001}, True),
        ({"a": 1.0}, {"a": 1.1}, False),
    ],
)
def test_what_agrees(expected: object, got: object, verdict: bool) -> None:
    assert grpcurl.agrees(expected, got) is verdict
