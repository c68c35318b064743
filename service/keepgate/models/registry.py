"""The model repository, DIR/<name>/<version>/model.safetensors, and what of it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from keepgate_kernels import PRECISIONS, Network, packed_bytes
from keepgate_kernels.errors import DeviceError
from keepgate_kernels.spec import ModelSpec, TokenInput

from keepgate.errors import (
    InvalidArgumentError,
    KeepgateError,
    ModelFileError,
    ModelNotFoundError,
    PrecisionError,
    RepositoryError,
)
from keepgate.models.device import Device
from keepgate.models.format import Stamp, load_model
from keepgate.models.networks import network_on
from keepgate.models.precision import PrecisionChoice
from keepgate.models.tokenizer import CharacterCodec
from keepgate.sessions.session import ModelKey

FILE_NAME = "model.safetensors"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,17}")
SHOWN = 5
"""Names that tell a user which directory it is."""
EVERYTHING_EXACT = PrecisionChoice()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One version of a model, ready to step.

    vocabulary_size is 0 for a feature model. packed_bytes: what the weights would take in the kernels, by
    precision, the most exact first. stamp: the file's when it was read.
    """

    key: ModelKey
    spec: ModelSpec
    network: Network
    codec: CharacterCodec | None
    vocabulary_size: int
    file_bytes: int
    packed_bytes: Mapping[str, int]
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a repository held: the models that serve, and why the others do not."""

    registry: Registry
    refused: list[KeepgateError]


class Registry:
    """Loaded models by name and version. A retired one has its sessions, and takes no new ones.

    The newest version has the largest number of those that are not retired.
    """

    def __init__(self, models: list[LoadedModel]) -> None:
        self._models: dict[ModelKey, LoadedModel] = {}
        self._retired: set[ModelKey] = set()
        self._newest: dict[str, LoadedModel] = {}
        self._arrange([*models])

    def __iter__(self) -> Iterator[LoadedModel]:
        """By name, then by version; retired ones too."""
        return iter(tuple(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)

    def at(self, key: ModelKey) -> LoadedModel:
        """The model of a key that is known to be loaded. Raises KeyError otherwise."""
        return self._models[key]

    def find(self, key: ModelKey) -> LoadedModel | None:
        """The model of a key, if it is loaded, retired or not."""
        return self._models.get(key)

    def with_weights(self, fingerprint: str) -> LoadedModel | None:
        """A model with these weights that takes new sessions, if there is one."""
        serving = (model for model in self if model.key not in self._retired)
        return next((model for model in serving if model.network.fingerprint == fingerprint), None)

    def get(self, name: str, version: str = "", *, field: str = "model") -> LoadedModel:
        """A model that takes new sessions; version "" means the newest.

        Raises InvalidArgumentError naming `field` if the name is empty, else ModelNotFoundError.
        """
        if not name:
            raise InvalidArgumentError(field, "nothing", "the name of a loaded model")
        key = ModelKey(name, version)
        found = self._models.get(key) if version else self._newest.get(name)
        if found is not None and found.key not in self._retired:
            return found
        serving = ", ".join(f"{key.name}/{key.version}" for key in self._models if key not in self._retired)
        if key in self._retired:
            raise ModelNotFoundError(name, version, serving, "is retired and takes no new sessions; loaded")
        raise ModelNotFoundError(name, version, serving)

    def is_retired(self, key: ModelKey) -> bool:
        """Whether a loaded model takes no new sessions."""
        return key in self._retired

    def add(self, model: LoadedModel) -> None:
        """Have one more version take new sessions."""
        self._arrange([*self._models.values(), model])

    def retire(self, key: ModelKey) -> None:
        """Give a loaded model no new sessions."""
        self._retired.add(key)
        self._arrange([*self])

    def restore(self, key: ModelKey) -> None:
        """Have a retired model take new sessions again."""
        self._retired.discard(key)
        self._arrange([*self])

    def remove(self, key: ModelKey) -> None:
        """Let go of a retired model."""
        del self._models[key]
        self.restore(key)

    def _arrange(self, models: list[LoadedModel]) -> None:
        models.sort(key=lambda model: (model.key.name, int(model.key.version)))
        self._models = {model.key: model for model in models}
        self._newest = {model.key.name: model for model in models if model.key not in self._retired}


def load_repository(
    directory: Path,
    *,
    max_bytes: int,
    slots: int,
    precision: PrecisionChoice = EVERYTHING_EXACT,
    threads: int = 1,
    device: Device = Device.CPU,
) -> LoadReport:
    """Load every model of a repository.

    A model that is refused is reported, and the others serve. slots: sessions of each model version;
    threads: the most that a step may use; device: one that is `present`. Raises RepositoryError if the
    directory cannot be read or none of its models can serve, PrecisionError if a precision is chosen for a
    model that is not there.
    """
    models: list[LoadedModel] = []
    refused: list[KeepgateError] = []
    folders = folders_of(directory, refused)
    _check_choice(precision, directory, folders)
    for name, version, folder in folders:
        path = folder / FILE_NAME
        try:
            key = checked_key(name, version, path)
            models.append(
                read_model(
                    path,
                    key,
                    max_bytes=max_bytes,
                    slots=slots,
                    precision=precision.of(name, version),
                    threads=threads,
                    device=device,
                )
            )
        except KeepgateError as error:
            refused.append(error)
    if not models:
        faults = "".join(f"\n  {error}" for error in refused) or f" {_what_is_in(directory)}"
        raise RepositoryError(
            f"models: no model in {directory} can serve, expected at least one "
            f"<name>/<version>/{FILE_NAME}:{faults}"
        )
    return LoadReport(Registry(models), refused)


def read_model(
    path: Path,
    key: ModelKey,
    *,
    max_bytes: int,
    slots: int,
    precision: str,
    threads: int = 1,
    device: Device = Device.CPU,
) -> LoadedModel:
    """Load one model file and make it ready to step under the name and version of `key`.

    Raises ModelFileError if the file is refused or the kernels cannot take it.
    """
    file = load_model(path, max_bytes=max_bytes)
    try:
        network = network_on(
            device, file.spec, file.tensors, slots=slots, precision=precision, threads=threads
        )
    except (ValueError, MemoryError, DeviceError) as error:
        raise ModelFileError(path, f"cannot be made ready: {error}") from error
    tokenizer = file.spec.tokenizer
    token_input = file.spec.input if isinstance(file.spec.input, TokenInput) else None
    return LoadedModel(
        key=key,
        spec=file.spec,
        network=network,
        codec=CharacterCodec(tokenizer.vocabulary) if tokenizer else None,
        vocabulary_size=token_input.vocabulary_size if token_input else 0,
        file_bytes=file.file_bytes,
        packed_bytes={name: packed_bytes(file.spec, name) for name in PRECISIONS},
        stamp=file.stamp,
    )


def find_model(directory: Path, name: str, version: str = "") -> tuple[ModelKey, Path]:
    """A model of a repository, by its folders alone; version "" means the newest. Its key and its file.

    Raises RepositoryError if the directory cannot be read or has no such model.
    """
    folders = folders_of(directory, [])
    versions = {there: folder for model, there, folder in folders if model == name}
    numbers = [there for there in versions if VERSION_PATTERN.fullmatch(there)]
    wanted = version or max(numbers, key=int, default="")
    if wanted not in versions:
        label = f"{name}/{version}" if version else name
        raise RepositoryError(f"model {label!r} is not in {directory}; there: {_names(folders)}")
    return ModelKey(name, wanted), versions[wanted] / FILE_NAME


def folders_of(directory: Path, refused: list[KeepgateError]) -> list[tuple[str, str, Path]]:
    """Name, version and folder of all that may be a version. What is none but holds a model, or cannot be
    read, goes to `refused`. Raises RepositoryError if the directory itself cannot be read."""
    try:
        return list(_version_folders(directory, refused))
    except OSError as error:
        raise RepositoryError(f"models: {directory} cannot be read: {error.strerror}") from error


def _names(folders: list[tuple[str, str, Path]]) -> str:
    return ", ".join(f"{name}/{version}" for name, version, _ in folders) or "nothing"


def _check_choice(choice: PrecisionChoice, directory: Path, folders: list[tuple[str, str, Path]]) -> None:
    """A misspelt name must not pass: its model would serve in another precision than was asked for.

    A model that is there but is refused is no reason to keep the others from serving.
    """
    names = {name for name, _, _ in folders} | {path.name for path in directory.iterdir() if path.is_dir()}
    there = names | {f"{name}/{version}" for name, version, _ in folders}
    if unknown := [model for model in choice.special if model not in there]:
        raise PrecisionError(unknown, _names(folders))


def _version_folders(directory: Path, refused: list[KeepgateError]) -> Iterator[tuple[str, str, Path]]:
    """As `folders_of`, but raises OSError."""
    here = directory.absolute()
    for folder in sorted(directory.iterdir()):
        if folder.name.startswith((".", "_")):
            continue
        try:
            if not folder.is_dir():
                if folder.name == FILE_NAME:
                    refused.append(_misplaced(folder, here.parent.parent, here.parent.name, here.name))
                continue
            found = sorted(folder.iterdir())
            if folder / FILE_NAME in found:
                refused.append(_misplaced(folder / FILE_NAME, here.parent, here.name, folder.name))
            versions = [path for path in found if path.is_dir() and not path.name.startswith(".")]
        except OSError as error:
            refused.append(ModelFileError(folder, f"cannot be read: {error.strerror}"))
            continue
        for version in versions:
            yield folder.name, version.name, version


def _misplaced(path: Path, repository: Path, name: str, version: str) -> ModelFileError:
    """For a model file that is right under `repository` or under one of its folders.

    repository, name, version: what its folders would be if they were <name>/<version>.
    """
    if VERSION_PATTERN.fullmatch(version):
        hint = f"to serve version {version} of model {name!r}, set models to {repository}"
    else:
        hint = f"for a model {version!r}, it belongs in {path.parent / '1' / FILE_NAME}"
    return ModelFileError(path, f"is not in <name>/<version>/ of the repository; {hint}")


def _what_is_in(directory: Path) -> str:
    found = sorted(path.name for path in directory.iterdir())
    if not found:
        return "it is empty"
    more = ", ..." if len(found) > SHOWN else ""
    return f"found only {', '.join(found[:SHOWN])}{more}"


def checked_key(name: str, version: str, path: Path) -> ModelKey:
    """The key of a model file by its folders. Raises ModelFileError."""
    if not NAME_PATTERN.fullmatch(name):
        raise ModelFileError(path, f"name {name!r}, expected letters, digits, '.', '_' and '-'")
    if not VERSION_PATTERN.fullmatch(version):
        raise ModelFileError(path, f"version {version!r}, expected a positive integer")
    return ModelKey(name, version)
