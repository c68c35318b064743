"""Between protocol buffers and Python, in both directions. No I/O."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration
from keepgate_protos.v1 import sequences_pb2
from numpy.typing import ArrayLike, NDArray

from keepgate_client import types
from keepgate_client.types import FloatArray

Tokens: TypeAlias = int | Sequence[int] | NDArray[Any]
"""One token id, or several in the order in which they are applied."""

MAX_DURATION_SECONDS = 315_576_000_000
"""What google.protobuf.Duration carries: 10,000 years."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a prediction's token is drawn and what comes with it. Checked by the server."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0
    top: int = 0
    logits: bool = False
    hidden: bool = False
    state: bool = False

    def sampling(self) -> sequences_pb2.Sampling:
        return sequences_pb2.Sampling(
            temperature=self.temperature,
            top_k=unsigned("top_k", self.top_k, 32),
            top_p=self.top_p,
            seed=unsigned("seed", self.seed, 64),
        )

    def outputs(self) -> sequences_pb2.Outputs:
        top = unsigned("top", self.top, 32)
        return sequences_pb2.Outputs(top_k=top, logits=self.logits, hidden=self.hidden, state=self.state)


def unsigned(name: str, value: int, bits: int) -> int:
    """The value, if the wire can carry it; whether it makes sense is for the server to say."""
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name}: got {value}, expected an integer in [0, 2**{bits})")
    return value


def unicode(name: str, value: str) -> str:
    """The value, if the wire can carry it: lone surrogates have no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: got the lone surrogate {value[error.start]!r} at character {error.start}, "
            "expected text that UTF-8 can encode"
        ) from None
    return value


def inputs_to_proto(
    tokens: Tokens | None = None, text: str | None = None, features: ArrayLike | None = None
) -> sequences_pb2.Inputs:
    """Exactly one of tokens, text and features as a message.

    features: float32 [K] or [T, K]. Raises TypeError if not exactly one is given, ValueError for token
    ids that are not 32-bit unsigned integers and for features of more than two dimensions.
    """
    _check_one(tokens, text, features)
    if tokens is not None:
        ids = sequences_pb2.Tokens(ids=_token_ids(tokens))
        return sequences_pb2.Inputs(tokens=ids)
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(f"text: got {type(text).__name__}, expected str")
        return sequences_pb2.Inputs(text=unicode("text", text))
    array = np.asarray(features, dtype=np.float32)
    if array.ndim not in (1, 2):
        raise ValueError(f"features: got shape {array.shape}, expected [K] or [T, K]")
    values = sequences_pb2.Features(values=array.ravel().tolist())
    return sequences_pb2.Inputs(features=values)


def _token_ids(tokens: Tokens) -> list[int]:
    array = np.asarray(tokens)
    if array.ndim > 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"tokens: got shape {array.shape} of {array.dtype}, expected integers [T]")
    ids = array.reshape(-1).tolist()
    return [unsigned(f"tokens[{i}]", token, 32) for i, token in enumerate(ids)]


def prompt_to_proto(prompt: str | Tokens) -> sequences_pb2.Inputs:
    """A prompt as a message: str is text, anything else token ids."""
    if isinstance(prompt, str):
        return inputs_to_proto(text=prompt)
    return inputs_to_proto(tokens=prompt)


def _input_count(tokens: Tokens | None, features: ArrayLike | None) -> int | None:
    """Positions that these inputs take, or None for text, where only the server's tokenizer knows."""
    if tokens is not None:
        return int(np.size(tokens))
    if features is not None:
        return len(features) if np.ndim(features) == 2 else 1  # type: ignore[arg-type]
    return None


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of one step. count: positions they take, None if only the server can tell."""

    message: sequences_pb2.Inputs
    count: int | None

    @classmethod
    def of(
        cls,
        tokens: Tokens | None = None,
        text: str | None = None,
        features: ArrayLike | None = None,
    ) -> Self:
        """Exactly one of them, as `inputs_to_proto` takes it."""
        return cls(inputs_to_proto(tokens, text, features), _input_count(tokens, features))

    def request(self, session_id: str, options: StepOptions) -> sequences_pb2.StepRequest:
        """The step, still without a position."""
        return sequences_pb2.StepRequest(
            session_id=session_id,
            inputs=self.message,
            sampling=options.sampling(),
            outputs=options.outputs(),
        )


def step_items(tokens: Any, text: Any, features: Any) -> tuple[Any, Callable[[Any], StepInputs]]:
    """The one iterable that is given, and what makes a step of its items. Raises TypeError."""
    _check_one(tokens, text, features)
    if tokens is not None:
        return tokens, lambda item: StepInputs.of(tokens=item)
    if text is not None:
        return text, lambda item: StepInputs.of(text=item)
    return features, lambda item: StepInputs.of(features=item)


async def as_async(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items of either kind of iterable."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _check_one(tokens: object, text: object, features: object) -> None:
    inputs = {"tokens": tokens, "text": text, "features": features}
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        raise TypeError(
            f"expected exactly one of tokens, text and features, got {', '.join(given) or 'none'}"
        )


def idle_ttl_to_proto(idle_ttl: float | timedelta | None) -> Duration | None:
    """Seconds or a timedelta as a message; None leaves it to the server."""
    if idle_ttl is None:
        return None
    if not isinstance(idle_ttl, timedelta):
        if not (math.isfinite(idle_ttl) and abs(idle_ttl) <= MAX_DURATION_SECONDS):
            raise _wrong_idle_ttl(f"{idle_ttl} s")
        idle_ttl = timedelta(seconds=idle_ttl)
    if not timedelta() < idle_ttl <= timedelta(seconds=MAX_DURATION_SECONDS):
        raise _wrong_idle_ttl(str(idle_ttl))
    message = Duration()
    message.FromTimedelta(idle_ttl)
    return message


def _wrong_idle_ttl(got: str) -> ValueError:
    return ValueError(f"idle_ttl: got {got}, expected at least 1 µs and at most {MAX_DURATION_SECONDS} s")


def state_to_proto(state: Iterable[types.LayerState]) -> list[sequences_pb2.LayerState]:
    """One message a layer. Whether the sizes are the model's is for the server to say."""
    return [
        sequences_pb2.LayerState(h=np.asarray(layer.h).tolist(), c=np.asarray(layer.c).tolist())
        for layer in state
    ]


def _floats(values: Iterable[float]) -> FloatArray | None:
    array = np.array(values, dtype=np.float32)
    return array if array.size else None


def prediction_from_proto(response: sequences_pb2.StepResponse) -> types.Prediction:
    """The answer to a step."""
    prediction = response.prediction
    has_token = prediction.HasField("token")
    return types.Prediction(
        position=response.position,
        replayed=response.replayed,
        token=prediction.token if has_token else None,
        text=prediction.text,
        log_probability=prediction.log_probability if has_token else None,
        top=tuple(types.TokenProbability(t.token, t.log_probability, t.text) for t in prediction.top),
        logits=_floats(prediction.logits) if prediction.logits else None,
        outputs=_floats(prediction.outputs) if prediction.outputs else None,
        hidden=tuple(np.array(h.values, dtype=np.float32) for h in prediction.hidden),
        state=tuple(types.LayerState(layer.h, layer.c) for layer in prediction.state),
    )


_FINISH = {
    sequences_pb2.FINISH_REASON_MAX_TOKENS: types.FinishReason.MAX_TOKENS,
    sequences_pb2.FINISH_REASON_STOP_TOKEN: types.FinishReason.STOP_TOKEN,
}


def tokens_from_proto(response: sequences_pb2.GenerateResponse) -> list[types.Token]:
    """The tokens of one message, each with its own position.

    A text of one character a token is dealt out; any other goes whole to the last token, so that
    joining the texts is right in every case.
    """
    count = len(response.tokens)
    texts = [""] * (count - 1) + [response.text]
    if len(response.text) == count:
        texts = list(response.text)
    finish = _FINISH.get(response.finish_reason)
    return [
        types.Token(
            token=token,
            text=texts[i],
            log_probability=response.log_probabilities[i],
            position=response.position - (count - 1 - i),
            finish_reason=finish if i == count - 1 else None,
        )
        for i, token in enumerate(response.tokens)
    ]


def score_from_proto(response: sequences_pb2.ScoreResponse, per_token: bool) -> types.Score:
    """The answer to a score."""
    values = np.array(response.log_probabilities, dtype=np.float32) if per_token else None
    return types.Score(
        log_likelihood=response.log_likelihood,
        scored=response.scored,
        position=response.position,
        log_probabilities=values,
        replayed=response.replayed,
    )
