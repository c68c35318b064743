import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_NONE: _ClassVar[Durability]
    DURABILITY_EVERYSEC: _ClassVar[Durability]
    DURABILITY_ALWAYS: _ClassVar[Durability]

class Residency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCY_UNSPECIFIED: _ClassVar[Residency]
    RESIDENCY_RESIDENT: _ClassVar[Residency]
    RESIDENCY_MEMORY: _ClassVar[Residency]
    RESIDENCY_STORE: _ClassVar[Residency]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_MAX_TOKENS: _ClassVar[FinishReason]
    FINISH_REASON_STOP_TOKEN: _ClassVar[FinishReason]
DURABILITY_UNSPECIFIED: Durability
DURABILITY_NONE: Durability
DURABILITY_EVERYSEC: Durability
DURABILITY_ALWAYS: Durability
RESIDENCY_UNSPECIFIED: Residency
RESIDENCY_RESIDENT: Residency
RESIDENCY_MEMORY: Residency
RESIDENCY_STORE: Residency
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_MAX_TOKENS: FinishReason
FINISH_REASON_STOP_TOKEN: FinishReason

class OpenRequest(_message.Message):
    __slots__ = ("model", "version", "session_id", "idle_ttl", "durability", "initial_state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    session_id: str
    idle_ttl: _duration_pb2.Duration
    durability: Durability
    initial_state: _containers.RepeatedCompositeFieldContainer[LayerState]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., session_id: _Optional[str] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ..., initial_state: _Optional[_Iterable[_Union[LayerState, _Mapping]]] = ...) -> None: ...

class LayerState(_message.Message):
    __slots__ = ("h", "c")
    H_FIELD_NUMBER: _ClassVar[int]
    C_FIELD_NUMBER: _ClassVar[int]
    h: _containers.RepeatedScalarFieldContainer[float]
    c: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, h: _Optional[_Iterable[float]] = ..., c: _Optional[_Iterable[float]] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session_id", "model", "version", "position", "created", "last_used", "idle_ttl", "durability", "durable_position", "oldest_position", "residency")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    LAST_USED_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    OLDEST_POSITION_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    version: str
    position: int
    created: _timestamp_pb2.Timestamp
    last_used: _timestamp_pb2.Timestamp
    idle_ttl: _duration_pb2.Duration
    durability: Durability
    durable_position: int
    oldest_position: int
    residency: Residency
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., position: _Optional[int] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_used: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ..., durable_position: _Optional[int] = ..., oldest_position: _Optional[int] = ..., residency: _Optional[_Union[Residency, str]] = ...) -> None: ...

class Inputs(_message.Message):
    __slots__ = ("tokens", "text", "features")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    tokens: Tokens
    text: str
    features: Features
    def __init__(self, tokens: _Optional[_Union[Tokens, _Mapping]] = ..., text: _Optional[str] = ..., features: _Optional[_Union[Features, _Mapping]] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Features(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Outputs(_message.Message):
    __slots__ = ("top_k", "logits", "hidden", "state")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    logits: bool
    hidden: bool
    state: bool
    def __init__(self, top_k: _Optional[int] = ..., logits: bool = ..., hidden: bool = ..., state: bool = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("token", "text", "log_probability", "top", "logits", "outputs", "hidden", "state")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    token: int
    text: str
    log_probability: float
    top: _containers.RepeatedCompositeFieldContainer[TokenProbability]
    logits: _containers.RepeatedScalarFieldContainer[float]
    outputs: _containers.RepeatedScalarFieldContainer[float]
    hidden: _containers.RepeatedCompositeFieldContainer[Hidden]
    state: _containers.RepeatedCompositeFieldContainer[LayerState]
    def __init__(self, token: _Optional[int] = ..., text: _Optional[str] = ..., log_probability: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenProbability, _Mapping]]] = ..., logits: _Optional[_Iterable[float]] = ..., outputs: _Optional[_Iterable[float]] = ..., hidden: _Optional[_Iterable[_Union[Hidden, _Mapping]]] = ..., state: _Optional[_Iterable[_Union[LayerState, _Mapping]]] = ...) -> None: ...

class TokenProbability(_message.Message):
    __slots__ = ("token", "log_probability", "text")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    token: int
    log_probability: float
    text: str
    def __init__(self, token: _Optional[int] = ..., log_probability: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class Hidden(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("session_id", "position", "inputs", "sampling", "outputs")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    inputs: Inputs
    sampling: Sampling
    outputs: Outputs
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ..., inputs: _Optional[_Union[Inputs, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., outputs: _Optional[_Union[Outputs, _Mapping]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("position", "replayed", "prediction")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    position: int
    replayed: bool
    prediction: Prediction
    def __init__(self, position: _Optional[int] = ..., replayed: bool = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("request_id", "step")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    step: StepRequest
    def __init__(self, request_id: _Optional[int] = ..., step: _Optional[_Union[StepRequest, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("request_id", "session_id", "step", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    session_id: str
    step: StepResponse
    error: _status_pb2.Status
    def __init__(self, request_id: _Optional[int] = ..., session_id: _Optional[str] = ..., step: _Optional[_Union[StepResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class FramesRequest(_message.Message):
    __slots__ = ("request_id", "bind", "frame", "unbind")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BIND_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    UNBIND_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    bind: Bind
    frame: Frame
    unbind: Unbind
    def __init__(self, request_id: _Optional[int] = ..., bind: _Optional[_Union[Bind, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., unbind: _Optional[_Union[Unbind, _Mapping]] = ...) -> None: ...

class Bind(_message.Message):
    __slots__ = ("session_ids", "sampling", "seeds")
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    sampling: Sampling
    seeds: bytes
    def __init__(self, session_ids: _Optional[_Iterable[str]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., seeds: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("handles", "positions", "tokens", "features", "log_probabilities")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    positions: bytes
    tokens: bytes
    features: bytes
    log_probabilities: bool
    def __init__(self, handles: _Optional[bytes] = ..., positions: _Optional[bytes] = ..., tokens: _Optional[bytes] = ..., features: _Optional[bytes] = ..., log_probabilities: bool = ...) -> None: ...

class Unbind(_message.Message):
    __slots__ = ("handles",)
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    def __init__(self, handles: _Optional[bytes] = ...) -> None: ...

class FramesResponse(_message.Message):
    __slots__ = ("request_id", "bound", "frame", "unbound", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    UNBOUND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    bound: Bound
    frame: FrameAnswer
    unbound: Unbound
    error: _status_pb2.Status
    def __init__(self, request_id: _Optional[int] = ..., bound: _Optional[_Union[Bound, _Mapping]] = ..., frame: _Optional[_Union[FrameAnswer, _Mapping]] = ..., unbound: _Optional[_Union[Unbound, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Bound(_message.Message):
    __slots__ = ("handles", "positions", "errors")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    positions: bytes
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    def __init__(self, handles: _Optional[bytes] = ..., positions: _Optional[bytes] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ...) -> None: ...

class FrameAnswer(_message.Message):
    __slots__ = ("tokens", "log_probabilities", "outputs", "errors", "replayed")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    tokens: bytes
    log_probabilities: bytes
    outputs: bytes
    errors: _containers.RepeatedCompositeFieldContainer[RowError]
    replayed: int
    def __init__(self, tokens: _Optional[bytes] = ..., log_probabilities: _Optional[bytes] = ..., outputs: _Optional[bytes] = ..., errors: _Optional[_Iterable[_Union[RowError, _Mapping]]] = ..., replayed: _Optional[int] = ...) -> None: ...

class RowError(_message.Message):
    __slots__ = ("row", "status")
    ROW_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    row: int
    status: _status_pb2.Status
    def __init__(self, row: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Unbound(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("session_id", "position", "prompt", "sampling", "max_tokens", "stop_tokens", "coalesce")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COALESCE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    prompt: Inputs
    sampling: Sampling
    max_tokens: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    coalesce: int
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ..., prompt: _Optional[_Union[Inputs, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., coalesce: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("tokens", "text", "log_probabilities", "position", "finish_reason")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    text: str
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    position: int
    finish_reason: FinishReason
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., position: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("session_id", "model", "position", "inputs", "per_token")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: ModelReference
    position: int
    inputs: Inputs
    per_token: bool
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[_Union[ModelReference, _Mapping]] = ..., position: _Optional[int] = ..., inputs: _Optional[_Union[Inputs, _Mapping]] = ..., per_token: bool = ...) -> None: ...

class ModelReference(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("log_likelihood", "scored", "log_probabilities", "position", "replayed")
    LOG_LIKELIHOOD_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    log_likelihood: float
    scored: int
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    position: int
    replayed: bool
    def __init__(self, log_likelihood: _Optional[float] = ..., scored: _Optional[int] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., position: _Optional[int] = ..., replayed: bool = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "model")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    model: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token", "total")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    total: int
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("session_id", "fork_id", "idle_ttl", "durability")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FORK_ID_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    fork_id: str
    idle_ttl: _duration_pb2.Duration
    durability: Durability
    def __init__(self, session_id: _Optional[str] = ..., fork_id: _Optional[str] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class RewindRequest(_message.Message):
    __slots__ = ("session_id", "position")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class RewindResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class ExportResponse(_message.Message):
    __slots__ = ("blob", "position")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    blob: bytes
    position: int
    def __init__(self, blob: _Optional[bytes] = ..., position: _Optional[int] = ...) -> None: ...

class ImportRequest(_message.Message):
    __slots__ = ("blob", "model", "version", "session_id", "idle_ttl", "durability")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    blob: bytes
    model: str
    version: str
    session_id: str
    idle_ttl: _duration_pb2.Duration
    durability: Durability
    def __init__(self, blob: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., session_id: _Optional[str] = ..., idle_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class ImportResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...
