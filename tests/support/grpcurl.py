"""The examples of a document, run as grpcurl would: by reflection alone, with none of the project's stubs.

An example is a ```console block: lines from "$ grpcurl" on, then the answer as JSON, one object a message.
"…" in an answer stands for whatever comes; an object or list that ends in "…" may have more.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from support.wire import DEADLINE

ANYTHING = "…"
DETAILS = error_details_pb2.DESCRIPTOR
"""Loaded, so that details of errors can be shown as JSON."""


@dataclass(frozen=True)
class Example:
    """requests and answers are JSON objects, a message each. line counts from 1."""

    line: int
    address: str
    method: str
    requests: list[Any]
    answers: list[Any]


def examples(text: str) -> Iterator[Example]:
    """All examples of a document, in order."""
    for block in re.finditer(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]:
            command, _, answer = part.partition("\n{")
            words = shlex.split(command.replace("\\\n", " "))
            assert words[:2] == ["grpcurl", "-plaintext"], command
            *options, address, method = words[2:]
            data = options[options.index("-d") + 1] if "-d" in options else "{}"
            line = text.count("\n", 0, block.start()) + 2
            yield Example(line, address, method, list(objects(data)), list(objects("{" + answer)))


def objects(text: str) -> Iterator[Any]:
    """JSON objects, one after the other."""
    decoder = json.JSONDecoder()
    text = text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].lstrip()


def run(example: Example, address: str) -> list[Any]:
    """The answers, or the status as `grpcurl -format-error` shows it."""
    service, _, name = example.method.rpartition("/")
    with grpc.insecure_channel(address) as channel:
        pool: Any = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(service).methods_by_name[name]
        request, response = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        call: Any = channel.stream_stream(  # on the wire, a unary call is a stream of one message
            f"/{example.method}", request.SerializeToString, response.FromString
        )
        sent = [json_format.ParseDict(each, request(), descriptor_pool=pool) for each in example.requests]
        try:
            answers = list(call(iter(sent), timeout=DEADLINE))
        except grpc.RpcError as error:
            status = rpc_status.from_call(error) or status_pb2.Status(code=error.code().value[0])
            return [json_format.MessageToDict(status)]
        return [json_format.MessageToDict(answer) for answer in answers]


def agrees(expected: Any, got: Any) -> bool:
    """Whether an answer is as documented."""
    if expected == ANYTHING:
        return got is not None
    if isinstance(expected, dict) and isinstance(got, dict):
        more = expected.get(ANYTHING) == ANYTHING
        named = {key for key in expected if key != ANYTHING}
        missing = not named <= got.keys() or (not more and named != got.keys())
        return not missing and all(agrees(expected[key], got[key]) for key in named)
    if isinstance(expected, list) and isinstance(got, list):
        if expected and expected[-1] == ANYTHING:
            expected, got = expected[:-1], got[: len(expected) - 1]
        return len(expected) == len(got) and all(map(agrees, expected, got))
    if isinstance(expected, float):
        return bool(got == pytest.approx(expected, rel=1e-3))
    return bool(expected == got)
