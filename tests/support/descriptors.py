"""What of a .proto file goes on the wire, as plain values to compare."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor


def described(file: Any) -> dict[str, Any]:
    """By full name: fields of messages by name, values of enums, methods of services."""
    found: dict[str, Any] = {}
    for message in file.message_types_by_name.values():
        _message(message, found)
    for enum in file.enum_types_by_name.values():
        _enum(enum, found)
    for service in file.services_by_name.values():
        found[service.full_name] = {
            method.name: (
                method.input_type.full_name,
                method.client_streaming,
                method.output_type.full_name,
                method.server_streaming,
            )
            for method in service.methods
        }
    return found


def _message(message: Descriptor, found: dict[str, Any]) -> None:
    found[message.full_name] = {field.name: _field(field) for field in message.fields}
    for nested in message.nested_types:
        _message(nested, found)
    for enum in message.enum_types:
        _enum(enum, found)


def _field(field: FieldDescriptor) -> tuple[Any, ...]:
    """Number, type, what it refers to, whether it is repeated, and its oneof."""
    referred = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        field.number,
        field.type,
        referred.full_name if referred is not None else "",
        field.is_repeated,
        oneof.name if oneof is not None else "",
    )


def _enum(enum: EnumDescriptor, found: dict[str, Any]) -> None:
    found[enum.full_name] = {value.name: value.number for value in enum.values}
