"""What calls return: frozen dataclasses, float32 arrays where there are vectors.

Letters: V vocabulary size, N outputs of a linear head, P width of a layer's hidden state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


class Durability(StrEnum):
    """What of a session survives a server that is killed: nothing, all but at most the last second of
    steps (what is lost is reported), or every step that was answered."""

    NONE = "none"
    EVERYSEC = "everysec"
    ALWAYS = "always"


DurabilityName: TypeAlias = Durability | Literal["none", "everysec", "always"]


class Residency(StrEnum):
    """Where a session's state is: in a slot, in memory to be made again, or in the store."""

    RESIDENT = "resident"
    MEMORY = "memory"
    STORE = "store"


@dataclass(frozen=True, slots=True, eq=False)
class LayerState:
    """One layer's recurrent state. Any sequences of numbers become float32.

    h: [P]. c: [H], the width of the layer, for cells that have one (LSTM, coupled-gate LSTM); else empty.

    Two states are equal bit for bit. Raises ValueError for anything but one dimension.
    """

    h: FloatArray | Sequence[float]
    c: FloatArray | Sequence[float] = ()

    def __post_init__(self) -> None:
        for name in ("h", "c"):
            array = np.array(getattr(self, name), dtype=np.float32)
            if array.ndim != 1:
                raise ValueError(f"{name}: got shape {array.shape}, expected one dimension")
            object.__setattr__(self, name, array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerState):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[bytes, bytes]:
        return np.asarray(self.h).tobytes(), np.asarray(self.c).tobytes()


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A token and the natural logarithm of its probability under the model itself."""

    token: int
    log_probability: float
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the model says after the last input of a step.

    position: the session's position after the step.
    replayed: the step had been applied before, and this is its answer once more.
    token, text, log_probability: the drawn token (token models; else None, "" and None).
    top: the most probable tokens, in descending order, if asked for.
    logits: float32 [V] if asked for.
    outputs: float32 [N] (feature models).
    hidden: float32 [P] for each layer, the first layer first, if asked for.
    state: the whole recurrent state of each layer, if asked for; another session may begin with it.

    Two predictions are equal if all their fields are, arrays bit for bit.
    """

    position: int
    replayed: bool = False
    token: int | None = None
    text: str = ""
    log_probability: float | None = None
    top: tuple[TokenProbability, ...] = ()
    logits: FloatArray | None = None
    outputs: FloatArray | None = None
    hidden: tuple[FloatArray, ...] = ()
    state: tuple[LayerState, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(_bytes_of(value) for value in values)


def _bytes_of(value: object) -> object:
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(_bytes_of(item) for item in value)
    return value


class FinishReason(StrEnum):
    """Why a generation ended."""

    MAX_TOKENS = "max_tokens"
    STOP_TOKEN = "stop_token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    text: the token's text; the joined texts of a generation are its text.
    log_probability: natural logarithm of its probability under the model itself.
    position: the session's position when it was drawn. The token itself is an input not yet applied.
    finish_reason: set on the last token of a generation.
    """

    token: int
    text: str
    log_probability: float
    position: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """The log-likelihood of a sequence.

    log_likelihood: sum over the scored tokens of the natural logarithm of each one's probability given
        all inputs before it.
    scored: tokens in the sum. The first token at position 0 has nothing before it and is not scored.
    log_probabilities: float32 [scored] if asked for with per_token.
    position: the position after the last token.
    replayed: the tokens had been applied before, and this is the answer once more.
    """

    log_likelihood: float
    scored: int
    position: int
    log_probabilities: FloatArray | None = None
    replayed: bool = False

    @property
    def bits_per_token(self) -> float:
        """Mean code length of a scored token in bits; nan if none was scored."""
        return -self.log_likelihood / math.log(2) / self.scored if self.scored else math.nan


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What the server knows of a session.

    durability: what of it survives the server. durable_position: the position that it would have if the
        server were killed now; 0 for a session of durability "none", which would be gone.
    residency: where its state is.
    oldest_position: the first position that `rewind` takes; None unless `describe` told it.

    durability and residency are None if a newer server has one that this client does not know.
    """

    session_id: str
    model: str
    version: str
    position: int
    created: datetime
    last_used: datetime
    idle_ttl: timedelta
    durability: Durability | None
    durable_position: int
    residency: Residency | None
    oldest_position: int | None = None


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One recurrent layer. cell: "rnn_tanh", "rnn_relu", "lstm", "cifg", "gru", "gru_reset_before"."""

    cell: str
    hidden_size: int
    projection_size: int
    peepholes: bool
    cell_clip: float


@dataclass(frozen=True, slots=True)
class TokenInputInfo:
    """The model takes token ids below vocabulary_size; vocabulary holds each one's text, if listed."""

    vocabulary_size: int
    embedding_size: int
    tokenizer: str
    vocabulary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureInputInfo:
    """The model takes float32 vectors of this size."""

    size: int


@dataclass(frozen=True, slots=True)
class CategoricalHeadInfo:
    """The model predicts a distribution over this many tokens."""

    size: int


@dataclass(frozen=True, slots=True)
class LinearHeadInfo:
    """The model predicts a vector of this size."""

    size: int


@dataclass(frozen=True, slots=True)
class PrecisionInfo:
    """The memory in bytes that a model's weights would take in a precision that the server offers."""

    precision: str
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model.

    parameters counts the trained numbers; file_bytes and state_bytes (of one session) are in bytes.
    precision is that of the weights in the kernels, "fp32", "bf16" or "int8", and weight_bytes the memory
    they take; precisions lists all that the server offers, the most exact first. device is where the model is
    computed, "cpu" or "cuda". fingerprint is the SHA-256 of spec and weights; sessions counts the open ones
    of this version. A version that is retired serves those and takes no new ones.
    """

    name: str
    version: str
    input: TokenInputInfo | FeatureInputInfo
    layers: tuple[LayerInfo, ...]
    head: CategoricalHeadInfo | LinearHeadInfo
    parameters: int
    file_bytes: int
    precision: str
    weight_bytes: int
    device: str
    precisions: tuple[PrecisionInfo, ...]
    state_bytes: int
    fingerprint: str
    sessions: int
    description: str
    source: str
    licence: str
    retired: bool = False
