from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Condition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONDITION_UNSPECIFIED: _ClassVar[Condition]
    CONDITION_SERVING: _ClassVar[Condition]
    CONDITION_RETIRED: _ClassVar[Condition]
CONDITION_UNSPECIFIED: Condition
CONDITION_SERVING: Condition
CONDITION_RETIRED: Condition

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "token_input", "feature_input", "layers", "categorical_head", "linear_head", "parameters", "file_bytes", "precision", "state_bytes", "fingerprint", "sessions", "description", "source", "licence", "weight_bytes", "precisions", "condition", "device")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_INPUT_FIELD_NUMBER: _ClassVar[int]
    FEATURE_INPUT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CATEGORICAL_HEAD_FIELD_NUMBER: _ClassVar[int]
    LINEAR_HEAD_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRECISIONS_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    token_input: TokenInput
    feature_input: FeatureInput
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    categorical_head: CategoricalHead
    linear_head: LinearHead
    parameters: int
    file_bytes: int
    precision: str
    state_bytes: int
    fingerprint: str
    sessions: int
    description: str
    source: str
    licence: str
    weight_bytes: int
    precisions: _containers.RepeatedCompositeFieldContainer[PrecisionSize]
    condition: Condition
    device: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., token_input: _Optional[_Union[TokenInput, _Mapping]] = ..., feature_input: _Optional[_Union[FeatureInput, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., categorical_head: _Optional[_Union[CategoricalHead, _Mapping]] = ..., linear_head: _Optional[_Union[LinearHead, _Mapping]] = ..., parameters: _Optional[int] = ..., file_bytes: _Optional[int] = ..., precision: _Optional[str] = ..., state_bytes: _Optional[int] = ..., fingerprint: _Optional[str] = ..., sessions: _Optional[int] = ..., description: _Optional[str] = ..., source: _Optional[str] = ..., licence: _Optional[str] = ..., weight_bytes: _Optional[int] = ..., precisions: _Optional[_Iterable[_Union[PrecisionSize, _Mapping]]] = ..., condition: _Optional[_Union[Condition, str]] = ..., device: _Optional[str] = ...) -> None: ...

class PrecisionSize(_message.Message):
    __slots__ = ("precision", "weight_bytes")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    precision: str
    weight_bytes: int
    def __init__(self, precision: _Optional[str] = ..., weight_bytes: _Optional[int] = ...) -> None: ...

class TokenInput(_message.Message):
    __slots__ = ("vocabulary_size", "embedding_size", "tokenizer", "vocabulary")
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    vocabulary_size: int
    embedding_size: int
    tokenizer: str
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, vocabulary_size: _Optional[int] = ..., embedding_size: _Optional[int] = ..., tokenizer: _Optional[str] = ..., vocabulary: _Optional[_Iterable[str]] = ...) -> None: ...

class FeatureInput(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("cell", "hidden_size", "projection_size", "peepholes", "cell_clip")
    CELL_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROJECTION_SIZE_FIELD_NUMBER: _ClassVar[int]
    PEEPHOLES_FIELD_NUMBER: _ClassVar[int]
    CELL_CLIP_FIELD_NUMBER: _ClassVar[int]
    cell: str
    hidden_size: int
    projection_size: int
    peepholes: bool
    cell_clip: float
    def __init__(self, cell: _Optional[str] = ..., hidden_size: _Optional[int] = ..., projection_size: _Optional[int] = ..., peepholes: bool = ..., cell_clip: _Optional[float] = ...) -> None: ...

class CategoricalHead(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class LinearHead(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...
