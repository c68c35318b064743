from keepgate_protos.v1 import models_pb2 as _models_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "sessions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    sessions: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., sessions: _Optional[int] = ...) -> None: ...

class RefusedFile(_message.Message):
    __slots__ = ("path", "fault")
    PATH_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    path: str
    fault: str
    def __init__(self, path: _Optional[str] = ..., fault: _Optional[str] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("loaded", "retired", "unloaded", "refused")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    UNLOADED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    loaded: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    retired: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    unloaded: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    refused: _containers.RepeatedCompositeFieldContainer[RefusedFile]
    def __init__(self, loaded: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., retired: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., unloaded: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., refused: _Optional[_Iterable[_Union[RefusedFile, _Mapping]]] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class LoadResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _models_pb2.Model
    def __init__(self, model: _Optional[_Union[_models_pb2.Model, _Mapping]] = ...) -> None: ...

class UnloadRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class UnloadResponse(_message.Message):
    __slots__ = ("sessions", "unloaded")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    UNLOADED_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    unloaded: bool
    def __init__(self, sessions: _Optional[int] = ..., unloaded: bool = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("calls", "sessions", "seconds")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    calls: int
    sessions: int
    seconds: float
    def __init__(self, calls: _Optional[int] = ..., sessions: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...
