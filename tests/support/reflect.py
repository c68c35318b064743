"""What a server tells of its services through reflection."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha import reflection_pb2_grpc

from support.wire import DEADLINE

MOST_DEPTH = 3


def methods(channel: grpc.Channel) -> dict[str, MethodDescriptor]:
    """Every method of every service listed, by "/package.Service/Method"."""
    ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo

    def answer(request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        return next(ask(iter([request]), timeout=DEADLINE))

    names = [
        service.name
        for service in answer(pb.ServerReflectionRequest(list_services="")).list_services_response.service
    ]
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for name in names:
        request = pb.ServerReflectionRequest(file_containing_symbol=name)
        for raw in answer(request).file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            files[file.name] = file
    pool: Any = descriptor_pool.DescriptorPool()
    for file in files.values():
        _add(pool, file.name, files)
    return {
        f"/{name}/{method.name}": method for name in names for method in pool.FindServiceByName(name).methods
    }


def _add(pool: Any, name: str, files: dict[str, descriptor_pb2.FileDescriptorProto]) -> FileDescriptor:
    try:
        found: FileDescriptor = pool.FindFileByName(name)
    except KeyError:
        for other in files[name].dependency:
            _add(pool, other, files)
        pool.Add(files[name])
        found = pool.FindFileByName(name)
    return found


def naming(method: MethodDescriptor, field: str, value: str) -> Message | None:
    """A request with nothing but `value` in every text field of that name, or of its plural; None if there is
    none."""
    message = GetMessageClass(method.input_type)()
    return message if _fill(message, field, value, MOST_DEPTH) else None


def _fill(message: Any, field: str, value: str, depth: int) -> bool:
    filled = False
    for each in message.DESCRIPTOR.fields:
        if each.type == each.TYPE_STRING and each.name in (field, f"{field}s"):
            if each.is_repeated:
                getattr(message, each.name).append(value)
            else:
                setattr(message, each.name, value)
            filled = True
        elif each.message_type is not None and depth and not each.message_type.GetOptions().map_entry:
            part = GetMessageClass(each.message_type)()
            if _fill(part, field, value, depth - 1):
                there = getattr(message, each.name)
                (there.add() if each.is_repeated else there).CopyFrom(part)
                filled = True
    return filled
