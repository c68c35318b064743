"""keepgate list, show: the models that a server holds."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from keepgate.cli import local
from keepgate.cli.output import (
    Json,
    Server,
    connected,
    console,
    fail,
    name_and_version,
    print_json,
    size,
)

if TYPE_CHECKING:
    from keepgate_client import LayerInfo, ModelInfo
    from rich.console import RenderableType

    from keepgate.models.registry import LoadedModel


def list_models(server: Server, models: local.Models = None, as_json: Json = False) -> None:
    """List the models that a server has loaded."""
    from rich.table import Table

    found = _read_models(models) if models else _ask_models(server)
    if as_json:
        print_json([_as_dict(model) for model in found])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("MODEL", no_wrap=True)
    table.add_column("LAYERS")
    table.add_column("INPUT")
    for name in ("PARAMETERS", "WEIGHTS", "SESSIONS"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in found:
        table.add_row(
            f"{model.name}/{model.version}",
            _layers(model),
            _input(model),
            f"{model.parameters:,}",
            f"{model.precision} {size(model.weight_bytes)}",
            f"{model.sessions:,}{' (retired)' if model.retired else ''}",
        )
    console().print(table)


def show(
    model: local.ModelOrFile, server: Server, models: local.Models = None, as_json: Json = False
) -> None:
    """Show a model's shape, size in every precision, and origin."""
    from rich.table import Table

    if models or local.is_file(model):
        found = _read_model(model, models)
    else:
        with connected(server) as client:
            found = client.model(*name_and_version(model))
    if as_json:
        print_json(_as_dict(found))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _facts(found):
        if value:
            table.add_row(label, value)
    console().print(table)


def _ask_models(server: str) -> list[ModelInfo]:
    with connected(server) as client:
        return client.models()


def _read_models(directory: Path) -> list[ModelInfo]:
    """The models of a repository, loaded as the server would."""
    from keepgate.errors import KeepgateError
    from keepgate.models.registry import load_repository

    settings = local.settings()
    try:
        report = load_repository(
            directory, max_bytes=settings.max_model_bytes, slots=1, precision=settings.precision
        )
    except KeepgateError as error:
        fail(str(error))
    for refused in report.refused:
        typer.echo(f"refused: {refused}", err=True)
    return [_described(model) for model in report.registry]


def _read_model(model: str, models: Path | None) -> ModelInfo:
    """One model of a repository, or of a file, loaded as the server would."""
    from keepgate.errors import KeepgateError
    from keepgate.models.registry import read_model

    settings = local.settings()
    key, path = local.find(model, models, settings)
    try:
        loaded = read_model(
            path, key, max_bytes=settings.max_model_bytes, slots=1, precision=settings.precision.of(*key)
        )
    except KeepgateError as error:
        fail(str(error))
    return _described(loaded)


def _described(model: LoadedModel) -> ModelInfo:
    """What a server's answer would tell."""
    from keepgate_client._infos import model_from_proto

    from keepgate.rpc.describe import model_to

    return model_from_proto(model_to(model, sessions=0))


def _as_dict(model: ModelInfo) -> dict[str, Any]:
    fields = dataclasses.asdict(model)
    for part in ("input", "head"):
        kind = type(getattr(model, part)).__name__.removesuffix("Info")
        fields[part] = {"kind": kind.removesuffix("Input").removesuffix("Head").lower(), **fields[part]}
    return fields


def _facts(model: ModelInfo) -> list[tuple[str, RenderableType]]:
    return [
        ("Model", local.label(model.name, model.version)),
        ("Description", model.description),
        ("Input", _input(model)),
        ("Layers", "\n".join(_layer(layer) for layer in model.layers)),
        ("Output", _output(model)),
        ("Parameters", f"{model.parameters:,}"),
        ("File", size(model.file_bytes)),
        ("Weights", _weights(model)),
        ("Device", model.device),
        ("State", f"{size(model.state_bytes)} a session"),
        ("Sessions", f"{model.sessions:,}"),
        ("Condition", "retired: takes no new sessions" if model.retired else ""),
        ("Source", model.source),
        ("Licence", model.licence),
        ("Fingerprint", model.fingerprint),
    ]


def _weights(model: ModelInfo) -> RenderableType:
    """What the weights take in the kernels: a row for each precision, the chosen one marked."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for each in model.precisions:
        chosen = each.precision == model.precision
        table.add_row(
            each.precision,
            size(each.weight_bytes),
            "chosen" if chosen else "",
            style="bold" if chosen else "",
        )
    return table


CELLS = {
    "rnn_tanh": "RNN (tanh)",
    "rnn_relu": "RNN (ReLU)",
    "lstm": "LSTM",
    "cifg": "coupled-gate LSTM",
    "gru": "GRU",
    "gru_reset_before": "GRU (reset before)",
}


def _layers(model: ModelInfo) -> str:
    return ", ".join(f"{layer.cell} {layer.hidden_size}" for layer in model.layers)


def _layer(layer: LayerInfo) -> str:
    parts = [f"{CELLS.get(layer.cell, layer.cell)}, {layer.hidden_size:,} units"]
    if layer.projection_size:
        parts.append(f"projected to {layer.projection_size:,}")
    if layer.peepholes:
        parts.append("peepholes")
    if layer.cell_clip:
        parts.append(f"cell clipped to {layer.cell_clip:g}")
    return ", ".join(parts)


def _input(model: ModelInfo) -> str:
    from keepgate_client import FeatureInputInfo

    if isinstance(model.input, FeatureInputInfo):
        return f"{model.input.size:,} features"
    return f"{model.input.vocabulary_size:,} {model.input.tokenizer or 'tokens'}"


def _output(model: ModelInfo) -> str:
    from keepgate_client import LinearHeadInfo

    if isinstance(model.head, LinearHeadInfo):
        return f"a vector of {model.head.size:,}"
    return f"a distribution over {model.head.size:,} tokens"
