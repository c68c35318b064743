"""Models read from disk by the command line itself, without a server."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keepgate.cli.output import fail, name_and_version, text_argument

if TYPE_CHECKING:
    from keepgate.config import Settings
    from keepgate.sessions.session import ModelKey

SUFFIX = ".safetensors"

Models = Annotated[
    Path | None,
    typer.Option(
        "--models",
        metavar="DIR",
        help="Read this model repository instead of asking a server.",
        exists=True,
        file_okay=False,
    ),
]
ModelOrFile = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Name of a model, or NAME/VERSION; the newest version if none. Or a model file: a path that "
        f"ends in {SUFFIX}.",
        callback=text_argument,
    ),
]


def is_file(model: str) -> bool:
    """Whether a MODEL argument is the path of a model file."""
    return model.endswith(SUFFIX)


def find(model: str, models: Path | None, settings: Settings) -> tuple[ModelKey, Path]:
    """The key and the file of a MODEL argument: a path, or a model of `models`, else of the settings'.

    A file by its path has the path for a name and no version. Where there is none the command fails.
    """
    from keepgate.errors import KeepgateError
    from keepgate.models.registry import find_model
    from keepgate.sessions.session import ModelKey

    if is_file(model):
        return ModelKey(model, ""), Path(model)
    try:
        return find_model(models or settings.models, *name_and_version(model))
    except KeepgateError as error:
        fail(str(error))


def label(name: str, version: str) -> str:
    """NAME/VERSION, or the path of a model that was read by its path."""
    return f"{name}/{version}" if version else name


def settings() -> Settings:
    """The settings of a server that would be started here. Where they are not valid the command fails."""
    from keepgate.config import load_settings
    from keepgate.errors import KeepgateError

    try:
        return load_settings()
    except KeepgateError as error:
        fail(str(error))
