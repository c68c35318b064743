"""A loaded model as a keepgate.v1.Model."""

from __future__ import annotations

from keepgate_kernels.spec import CategoricalHead, LayerSpec, TokenInput
from keepgate_protos.v1 import models_pb2 as pb

from keepgate.models.registry import LoadedModel
from keepgate.sequences import Sequences


def describe(model: LoadedModel, sequences: Sequences) -> pb.Model:
    """A model that is loaded now."""
    return model_to(model, sequences.table.count(model.key), retired=sequences.registry.is_retired(model.key))


def model_to(model: LoadedModel, sessions: int, *, retired: bool = False) -> pb.Model:
    """sessions: how many of this version are open."""
    spec, network = model.spec, model.network
    message = pb.Model(
        name=model.key.name,
        version=model.key.version,
        layers=[_layer_to(layer) for layer in spec.layers],
        parameters=spec.parameters,
        file_bytes=model.file_bytes,
        precision=network.precision,
        device=network.device,
        weight_bytes=network.weight_bytes,
        precisions=[
            pb.PrecisionSize(precision=name, weight_bytes=count) for name, count in model.packed_bytes.items()
        ],
        state_bytes=spec.state_bytes,
        fingerprint=network.fingerprint,
        sessions=sessions,
        description=spec.description,
        source=spec.source,
        licence=spec.licence,
        condition=pb.CONDITION_RETIRED if retired else pb.CONDITION_SERVING,
    )
    if isinstance(spec.input, TokenInput):
        message.token_input.vocabulary_size = spec.input.vocabulary_size
        message.token_input.embedding_size = spec.input.embedding_size
        if spec.tokenizer is not None:
            message.token_input.tokenizer = "characters"
            message.token_input.vocabulary.extend(spec.tokenizer.vocabulary)
    else:
        message.feature_input.size = spec.input.size
    if isinstance(spec.head, CategoricalHead):
        message.categorical_head.size = spec.head.size
    else:
        message.linear_head.size = spec.head.size
    return message


def _layer_to(layer: LayerSpec) -> pb.Layer:
    return pb.Layer(
        cell=layer.cell.kind.value,
        hidden_size=layer.hidden_size,
        projection_size=layer.cell.projection,
        peepholes=layer.cell.peepholes,
        cell_clip=layer.cell.cell_clip,
    )
