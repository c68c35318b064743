"""Between the messages of keepgate.v1 and the domain. What comes in is checked here, once,
completely.

Field paths in errors are those of the proto, from the request down. Raises InvalidArgumentError.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from keepgate_kernels import Sampling
from keepgate_kernels.spec import FeatureInput
from keepgate_protos.v1 import sequences_pb2 as pb
from numpy.typing import NDArray

from keepgate.engine.job import Prediction, Scores
from keepgate.errors import InvalidArgumentError, UnknownCharacterError
from keepgate.generation import Chunk, Finish, GenerationOptions
from keepgate.models.registry import LoadedModel
from keepgate.models.tokenizer import CharacterCodec
from keepgate.request import GREEDY, NO_OPTIONS, NOTHING_MORE, Options, Wants
from keepgate.rpc.sessions import state_to

MOST_VOCABULARIES = 32
"""Sizes of vocabularies whose ids are kept in memory."""
MAX_FEATURE = 1e30
"""Largest magnitude of a feature: times a weight, and summed over a layer's inputs, it must stay
within float32, which ends at 3.4e38."""
FINISH = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    Finish.MAX_TOKENS: pb.FINISH_REASON_MAX_TOKENS,
    Finish.STOP_TOKEN: pb.FINISH_REASON_STOP_TOKEN,
}

# --- requests ---


def inputs_from(message: pb.Inputs, model: LoadedModel, limit: int, field: str = "inputs") -> NDArray[Any]:
    """uint32 [T] token ids or float32 [T, K] features, 1 <= T <= limit, valid for the model."""
    kind = message.WhichOneof("kind")
    if kind is None:
        wanted = "tokens or text" if model.vocabulary_size else "features"
        raise InvalidArgumentError(field, "nothing", wanted)
    if kind == "features":
        return _features(message.features.values, model, limit, f"{field}.features.values")
    if not model.vocabulary_size:
        raise InvalidArgumentError(
            f"{field}.{kind}", kind, f"features: model {model.key.name!r} takes feature vectors"
        )
    if kind == "text":
        return _text(message.text, model, limit, f"{field}.text")
    return _tokens(message.tokens.ids, model.vocabulary_size, limit, f"{field}.tokens.ids")


def _tokens(ids: Any, vocabulary_size: int, limit: int, field: str) -> NDArray[np.uint32]:
    count = len(ids)
    _check_count(count, limit, field, "token ids")
    if count == 1 and ids[0] < vocabulary_size:
        first = ids[0]
        return _every_token(vocabulary_size)[first : first + 1]
    tokens = np.array(ids, dtype=np.uint32)
    if tokens.max() >= vocabulary_size:
        index = int(np.argmax(tokens >= vocabulary_size))
        raise InvalidArgumentError(
            f"{field}[{index}]", str(tokens[index]), f"less than {vocabulary_size}, the vocabulary size"
        )
    return tokens


@functools.lru_cache(maxsize=MOST_VOCABULARIES)
def _every_token(vocabulary_size: int) -> NDArray[np.uint32]:
    """All ids, read-only: a view of one is made several times as fast as an array."""
    ids = np.arange(vocabulary_size, dtype=np.uint32)
    ids.flags.writeable = False
    return ids


def _text(text: str, model: LoadedModel, limit: int, field: str) -> NDArray[np.uint32]:
    if model.codec is None:
        raise InvalidArgumentError(field, "text", f"tokens: {model.key.name!r} has no tokenizer")
    _check_count(len(text), limit, field, "characters")
    try:
        return model.codec.encode(text)
    except UnknownCharacterError as error:
        raise InvalidArgumentError(
            f"{field}[{error.index}]",
            repr(error.character),
            f"a character of the vocabulary of {model.key.name!r}",
        ) from error


def _features(values: Any, model: LoadedModel, limit: int, field: str) -> NDArray[np.float32]:
    if not isinstance(model.spec.input, FeatureInput):
        raise InvalidArgumentError(
            field, "features", f"tokens or text: model {model.key.name!r} takes tokens"
        )
    size = model.spec.input.size
    count, rest = divmod(len(values), size)
    if rest:
        raise InvalidArgumentError(
            field, f"{len(values)} values", f"a multiple of {size}, the length of a feature vector"
        )
    _check_count(count, limit, field, "feature vectors")
    features = np.array(values, dtype=np.float32)
    finite = np.isfinite(features)
    if not finite.all():
        index = int(np.argmin(finite))
        raise InvalidArgumentError(f"{field}[{index}]", str(features[index]), "a finite number")
    large = np.abs(features) > MAX_FEATURE
    if large.any():
        index = int(np.argmax(large))
        raise InvalidArgumentError(
            f"{field}[{index}]", str(features[index]), f"a magnitude of at most {MAX_FEATURE:g}"
        )
    return features.reshape(count, size)


def _check_count(count: int, limit: int, field: str, what: str) -> None:
    if not 1 <= count <= limit:
        raise InvalidArgumentError(field, f"{count} {what}", f"from 1 to {limit}")


def sampling_from(message: pb.Sampling, model: LoadedModel, field: str = "sampling") -> Sampling:
    """Sampling of a token model."""
    if not model.vocabulary_size:
        if message.ByteSize():
            raise InvalidArgumentError(field, "options", f"none: model {model.key.name!r} draws no tokens")
        return GREEDY
    temperature, top_p = message.temperature, message.top_p
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidArgumentError(f"{field}.temperature", f"{temperature:g}", "a finite number, at least 0")
    if not 0 <= top_p <= 1:
        raise InvalidArgumentError(f"{field}.top_p", f"{top_p:g}", "from 0 (all tokens) to 1")
    return Sampling(temperature=temperature, top_k=message.top_k, top_p=top_p or 1.0, seed=message.seed)


def wants_from(message: pb.Outputs, model: LoadedModel) -> Wants:
    """What the prediction carries. top_k is at most the vocabulary size."""
    if message.top_k > model.vocabulary_size:
        expected = (
            f"at most {model.vocabulary_size}, the vocabulary size"
            if model.vocabulary_size
            else f"0: model {model.key.name!r} predicts no tokens"
        )
        raise InvalidArgumentError("outputs.top_k", str(message.top_k), expected)
    if message.logits and not model.vocabulary_size:
        raise InvalidArgumentError(
            "outputs.logits", "true", f"false: model {model.key.name!r} predicts no tokens"
        )
    return Wants(message.top_k, message.logits, message.hidden, message.state)


def step_from(
    request: pb.StepRequest, model: LoadedModel, limit: int
) -> tuple[int | None, NDArray[Any], Options]:
    """Position, inputs, and how to sample and what the answer carries."""
    inputs = inputs_from(request.inputs, model, limit)
    sampling = sampling_from(request.sampling, model) if request.HasField("sampling") else GREEDY
    wants = wants_from(request.outputs, model) if request.HasField("outputs") else NOTHING_MORE
    plain = sampling is GREEDY and wants is NOTHING_MORE
    options = NO_OPTIONS if plain else Options(sampling, wants)  # most look no further than the object
    return request.position if request.HasField("position") else None, inputs, options


def generation_from(
    request: pb.GenerateRequest, model: LoadedModel, max_inputs: int, max_tokens: int
) -> tuple[int | None, NDArray[Any], GenerationOptions]:
    """Position, prompt and options."""
    check_token_model(model, "session_id", "Generate")
    if not 1 <= request.max_tokens <= max_tokens:
        raise InvalidArgumentError("max_tokens", str(request.max_tokens), f"from 1 to {max_tokens}")
    for index, token in enumerate(request.stop_tokens):
        if token >= model.vocabulary_size:
            raise InvalidArgumentError(
                f"stop_tokens[{index}]",
                str(token),
                f"less than {model.vocabulary_size}, the vocabulary size",
            )
    options = GenerationOptions(
        sampling_from(request.sampling, model), request.max_tokens, frozenset(request.stop_tokens)
    )
    position = request.position if request.HasField("position") else None
    return position, inputs_from(request.prompt, model, max_inputs, "prompt"), options


def check_token_model(model: LoadedModel, field: str, method: str) -> None:
    """Raises InvalidArgumentError if the model takes features."""
    if not model.vocabulary_size:
        raise InvalidArgumentError(
            field, f"model {model.key.name!r} of feature vectors", f"a token model for {method}"
        )


def page_from(request: pb.ListRequest, default: int, most: int) -> tuple[int, int]:
    """The serial after which the page begins, and its size."""
    token = request.page_token
    if token and not (token.isascii() and token.isdigit() and len(token) < len(str(1 << 63))):
        raise InvalidArgumentError("page_token", f"{token[:40]!r}", "next_page_token of an earlier answer")
    return int(token or 0), min(request.page_size or default, most)


# --- answers ---


def fill_prediction(message: pb.Prediction, prediction: Prediction, model: LoadedModel) -> None:
    """Make an empty message that of a prediction, token texts included if there is a tokenizer."""
    codec = model.codec
    if prediction.outputs is not None:
        message.outputs.extend(prediction.outputs.tolist())
    else:
        message.token = prediction.token
        message.log_probability = prediction.log_probability
        if codec is not None:
            message.text = codec.vocabulary[prediction.token]
        if prediction.top is not None:
            for token, probability in zip(*map(np.ndarray.tolist, prediction.top), strict=True):
                text = codec.vocabulary[token] if codec is not None else ""
                message.top.add(token=token, log_probability=probability, text=text)
        if prediction.logits is not None:
            message.logits.extend(prediction.logits.tolist())
    for layer in prediction.hidden or ():
        message.hidden.add(values=layer.tolist())
    if prediction.state is not None:
        message.state.extend(state_to(prediction.state, model.spec))


def step_to(prediction: Prediction | Scores, replayed: bool, model: LoadedModel) -> pb.StepResponse:
    message = pb.StepResponse()
    fill_step(message, prediction, replayed, model)
    return message


def fill_step(
    message: pb.StepResponse, prediction: Prediction | Scores, replayed: bool, model: LoadedModel
) -> None:
    """Make an empty message the answer to a step. In place: protobuf copies what is put into a message."""
    if not isinstance(prediction, Prediction):
        raise TypeError(f"expected a prediction, got {type(prediction).__name__}")
    message.position = prediction.position
    if replayed:
        message.replayed = True
    fill_prediction(message.prediction, prediction, model)


def chunk_to(chunk: Chunk, codec: CharacterCodec | None) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        tokens=chunk.tokens,
        text=codec.decode(chunk.tokens) if codec is not None else "",
        log_probabilities=chunk.log_probabilities,
        position=chunk.position,
        finish_reason=FINISH[chunk.finish],
    )


def score_to(scores: Prediction | Scores, per_token: bool, replayed: bool) -> pb.ScoreResponse:
    if not isinstance(scores, Scores):
        raise TypeError(f"expected scores, got {type(scores).__name__}")
    values: Iterable[float] = scores.log_probabilities.tolist()
    return pb.ScoreResponse(
        log_likelihood=math.fsum(values),
        scored=len(scores.log_probabilities),
        log_probabilities=values if per_token else (),
        position=scores.position,
        replayed=replayed,
    )
