"""The descriptor pool of the generated modules, one for all of anyserve, and how their classes are built in it.

protobuf's own builder registers each class in the process's default pool too when protobuf
runs without its C extension, and there other clients of this protocol claim the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.builder import BuildMessageAndEnumDescriptors
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.reflection import GeneratedProtocolMessageType

__all__ = ["POOL", "BuildMessageAndEnumDescriptors", "BuildTopDescriptorsAndMessages"]

POOL = DescriptorPool()


def BuildTopDescriptorsAndMessages(file: FileDescriptor, module_name: str, module: dict[str, Any]) -> None:  # noqa: N802
    """Puts a file's enums, services and message classes into its module, and into no other pool."""
    for name, enum in file.enum_types_by_name.items():
        module[f"_{name.upper()}"] = enum
        module[name] = EnumTypeWrapper(enum)
        module.update((value.name, value.number) for value in enum.values)
    for name, service in file.services_by_name.items():
        module[f"_{name.upper()}"] = service
    for name, message in file.message_types_by_name.items():
        module[name] = _message_class(message, f"{__package__}.{module_name}", "")


def _message_class(message: Descriptor, module_name: str, prefix: str) -> type[Message]:
    nested = {
        n: _message_class(d, module_name, f"{prefix}{message.name}.") for n, d in message.nested_types_by_name.items()
    }
    names = {"DESCRIPTOR": message, "__module__": module_name, "__qualname__": prefix + message.name}
    class_: Any = GeneratedProtocolMessageType(message.name, (Message,), {**nested, **names})
    return class_  # type: ignore[no-any-return]
