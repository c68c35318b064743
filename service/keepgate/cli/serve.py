"""keepgate serve: the server with every setting as a flag."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import EnumType
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from keepgate.cli.output import fail

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Click's settings for a command whose arguments another one parses."""


def serve(context: typer.Context) -> None:
    """Serve models until stopped."""
    # The flags are made from the settings, whose import takes half a second; so only here.
    command = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    command.command(context_settings={"help_option_names": ["-h", "--help"]})(_command())
    command(args=context.args, prog_name=context.command_path)


def _command() -> Callable[..., None]:
    """A command with a flag for each field of Settings. The settings themselves check the
    values."""
    from keepgate.config import PREFIX, Settings

    def run(**flags: str | list[str] | None) -> None:
        from keepgate.config import load_settings
        from keepgate.errors import ConfigError, KeepgateError

        try:
            # Typer gives an empty list for a repeatable flag that is not there.
            settings = load_settings(**{name: None if flag == [] else flag for name, flag in flags.items()})
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None
        from keepgate.server import run

        try:
            run(settings)
        except KeepgateError as error:
            fail(str(error))

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field))
        for name, field in Settings.model_fields.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = (
        "Serve models until stopped.\n\nEach flag is also an environment variable, "
        f"{PREFIX}PORT for --port, and a key of the TOML file that --config names. A flag wins over the "
        "environment, and that over the file. A flag given several times is one value with commas "
        "everywhere else."
    )
    return run


def _flag(name: str, field: FieldInfo) -> Any:
    from keepgate.config import REPEATABLE

    option = typer.Option(
        "--" + name.replace("_", "-"),
        metavar=_metavar(field),
        help=f"{field.description}{_default(field)}",
        show_default=False,  # to Typer every flag is unset; the settings have the defaults
    )
    return Annotated[list[str] | None if name in REPEATABLE else str | None, option]


def _default(field: FieldInfo) -> str:
    from keepgate.config import BUNDLED_MODELS

    if field.default is None:
        return ""
    return f" [default: {'the bundled models' if field.default == BUNDLED_MODELS else field.default}]"


def _metavar(field: FieldInfo) -> str:
    """What a value looks like: INTEGER, FLOAT, PATH, PRECISION, TEXT, or the choices there are."""
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if isinstance(field.annotation, EnumType):
        choices = [str(choice) for choice in field.annotation]
    if choices:
        return f"[{'|'.join(choices)}]"
    kinds = get_args(field.annotation) or (field.annotation,)
    names = {"int": "INTEGER", "float": "FLOAT", "bool": "BOOLEAN", "Path": "PATH"}
    names["PrecisionChoice"] = "PRECISION"
    return next((names[kind.__name__] for kind in kinds if kind and kind.__name__ in names), "TEXT")
