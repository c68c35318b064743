"""Models come and go while the server serves.

A version that is new in the repository is loaded beside the others, in a thread, and takes new sessions from
then on. One that is gone from it is retired: it keeps its sessions, gets no new ones, and is unloaded when
nothing uses it any more. Whatever fails, what was loaded before goes on serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from keepgate_kernels.weights import fingerprint

from keepgate.errors import (
    DrainingError,
    InvalidArgumentError,
    KeepgateError,
    ModelFileError,
    ModelNotFoundError,
    ModelRefusedError,
    RepositoryError,
)
from keepgate.memory import give_back
from keepgate.models.format import Stamp, load_model
from keepgate.models.registry import FILE_NAME, LoadedModel, checked_key, folders_of, read_model
from keepgate.sequences import Sequences
from keepgate.sessions.session import ModelKey
from keepgate.threads import in_thread

Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Changes:
    """What a reload did. refused: why a file is not served, or not in place of what was loaded from it."""

    loaded: list[ModelKey] = field(default_factory=list)
    retired: list[ModelKey] = field(default_factory=list)
    unloaded: list[ModelKey] = field(default_factory=list)
    refused: list[ModelFileError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Repository:
    """Versions and their files; `unread` are folders that could not be read: nobody knows what is in them."""

    files: dict[ModelKey, Path]
    refused: list[ModelFileError]
    unread: set[Path]

    @classmethod
    def read(cls, directory: Path) -> _Repository:
        """Raises RepositoryError if the directory cannot be read or has no version at all."""
        faults: list[KeepgateError] = []
        folders = folders_of(directory, faults)
        if not folders:  # as of a disk that is not there; an empty repository serves nobody
            raise RepositoryError(
                f"models: {directory} holds no <name>/<version>/{FILE_NAME} any more, expected at least one"
            )
        refused = [fault for fault in faults if isinstance(fault, ModelFileError)]
        unread = {fault.path for fault in refused}
        files: dict[ModelKey, Path] = {}
        for name, version, folder in folders:
            path = folder / FILE_NAME
            try:
                files[checked_key(name, version, path)] = path
            except ModelFileError as error:
                refused.append(error)
        return cls(files, refused, unread)


class Swap:
    """Loads, retires and unloads versions of models. One such change at a time; the others wait.

    refused: files that are not served, as the last reload found them; `at_start` before the first one.
    changed: awaited after every change.
    """

    def __init__(self, sequences: Sequences, at_start: Iterable[KeepgateError] = ()) -> None:
        self.refused = [error for error in at_start if isinstance(error, ModelFileError)]
        self.changed: Callable[[], Awaitable[None]] | None = None
        self._sequences = sequences
        self._settings = sequences.settings
        self._registry = sequences.registry
        self._stamps: dict[ModelKey, Stamp] = {model.key: model.stamp for model in self._registry}
        self._kept_out: set[ModelKey] = set()
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def reload(self, *, again: bool = True) -> Changes:
        """Make what is loaded agree with the repository. Goes on if the caller is cancelled.

        again: log what is refused also if the last reload, or the start, has done so.
        Raises ModelRefusedError if the repository cannot be read, and then nothing has changed;
        DrainingError.
        """
        return await self._to_its_end(self._reload(again))

    async def load(self, name: str, version: str) -> LoadedModel:
        """Have one version of the repository take new sessions. Goes on if the caller is cancelled.

        Raises InvalidArgumentError, ModelNotFoundError, ModelRefusedError, DrainingError.
        """
        return await self._to_its_end(self._load(_key(name, version)))

    async def unload(self, name: str, version: str) -> bool:
        """Retire a version, though the repository has it, till `load`; whether it is gone already.

        Raises InvalidArgumentError, ModelNotFoundError.
        """
        return await self._to_its_end(self._unload(_key(name, version)))

    def sweep(self) -> list[ModelKey]:
        """Unload the retired versions that nothing uses any more; which."""
        unloaded = self._sequences.unserve_unused()
        for key in unloaded:
            del self._stamps[key]
            log.info("model unloaded", model=key.name, version=key.version)
        if unloaded:
            in_thread(give_back)
        return unloaded

    def expire(self) -> None:
        """To be called now and then: as `sweep`, but not while a change may count on what is loaded."""
        if not self._one.locked():
            self.sweep()

    async def close(self) -> None:
        """Stop what is going on. What a thread has begun to read, it reads in vain."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inside ---

    async def _to_its_end(self, change: Coroutine[Any, Any, Answer]) -> Answer:
        task = asyncio.ensure_future(self._alone(change))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A change is over, and who asked for it may have gone: a refusal is nothing for the log then."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KeepgateError):
            log.error("a change of the models failed", exc_info=error)

    async def _alone(self, change: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            async with self._one:
                if self._sequences.draining.is_set():
                    raise DrainingError
                answer = await change
                if self.changed is not None:
                    await self.changed()
                return answer
        finally:
            change.close()

    async def _reload(self, again: bool) -> Changes:
        repository = await self._repository()
        changes = Changes(refused=repository.refused)
        for key, path in repository.files.items():
            if key in self._kept_out:
                continue
            try:
                if await self._take(key, path):
                    changes.loaded.append(key)
            except ModelFileError as fault:
                changes.refused.append(fault)
        for model in self._registry:
            key = model.key
            is_gone = (
                key not in repository.files and self._settings.models / key.name not in repository.unread
            )
            if is_gone and not self._registry.is_retired(key):
                self._retire(key)
                changes.retired.append(key)
        changes.unloaded = self.sweep()
        told = set() if again else {str(error) for error in self.refused}
        for error in changes.refused:
            if str(error) not in told:
                log.error("model refused", error=str(error))
        self.refused = list(changes.refused)
        return changes

    async def _load(self, key: ModelKey) -> LoadedModel:
        repository = await self._repository()
        path = repository.files.get(key)
        if path is None:
            there = ", ".join(f"{name}/{version}" for name, version in repository.files)
            raise ModelNotFoundError(*key, there, "is not in the repository; there")
        try:
            await self._take(key, path)
        except ModelFileError as error:
            log.error("model refused", error=str(error))
            raise ModelRefusedError(str(error), *key) from error
        self._kept_out.discard(key)
        self.refused = [error for error in self.refused if error.path != path]
        return self._registry.at(key)

    async def _unload(self, key: ModelKey) -> bool:
        if self._registry.find(key) is None:
            loaded = ", ".join(f"{model.key.name}/{model.key.version}" for model in self._registry)
            raise ModelNotFoundError(*key, loaded)
        self._kept_out.add(key)
        if not self._registry.is_retired(key):
            self._retire(key)
        return key in self.sweep()

    async def _repository(self) -> _Repository:
        try:
            return await in_thread(lambda: _Repository.read(self._settings.models))
        except RepositoryError as error:
            log.error("repository refused", error=str(error))
            raise ModelRefusedError(str(error)) from error

    async def _take(self, key: ModelKey, path: Path) -> bool:
        """Have a version serve; whether it did not before. Raises ModelFileError, having changed nothing."""
        model = self._registry.find(key)
        if model is None:
            await self._serve(await in_thread(lambda: self._read(path, key)))
            return True
        last, limit = self._stamps[key], self._settings.max_model_bytes
        self._stamps[key] = await in_thread(lambda: _check_same(path, model, last, limit))
        if not self._registry.is_retired(key):
            return False
        self._registry.restore(key)
        log.info("model returned to service", model=key.name, version=key.version)
        return True

    def _read(self, path: Path, key: ModelKey) -> LoadedModel:
        """On a thread."""
        settings = self._settings
        model = read_model(
            path,
            key,
            max_bytes=settings.max_model_bytes,
            slots=settings.slots,
            precision=settings.precision.of(*key),
            threads=settings.thread_count,
            device=settings.device,
        )
        make_ready(model)
        give_back()  # the file's bytes
        return model

    async def _serve(self, model: LoadedModel) -> None:
        self._stamps[model.key] = model.stamp
        self._sequences.serve(model)
        self._registry.add(model)
        await self._sequences.recover_of(model.key)

    def _retire(self, key: ModelKey) -> None:
        self._registry.retire(key)
        log.info(
            "model retired", model=key.name, version=key.version, sessions=self._sequences.table.count(key)
        )


def make_ready(model: LoadedModel) -> None:
    """Compile what the model needs, and say that it is loaded."""
    seconds = model.network.compile()
    log.info(
        "model loaded",
        model=model.key.name,
        version=model.key.version,
        parameters=model.spec.parameters,
        precision=model.network.precision,
        device=model.network.device,
        weight_bytes=model.network.weight_bytes,
        compile_seconds=round(seconds, 3),
    )


def _key(name: str, version: str) -> ModelKey:
    for what, value in (("name", name), ("version", version)):
        if not value:
            raise InvalidArgumentError(what, "nothing", f"the {what} of a model in the repository")
    return ModelKey(name, version)


def _check_same(path: Path, model: LoadedModel, last: Stamp, max_bytes: int) -> Stamp:
    """The stamp of a loaded version's file; `last` is the one that it had. Raises ModelFileError if the file
    is another model now, or cannot be read."""
    try:
        now = Stamp.of(path.stat())
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error
    if now == last:
        return now
    file = load_model(path, max_bytes=max_bytes)
    if fingerprint(file.spec, file.tensors) != model.network.fingerprint:
        raise ModelFileError(
            path, "has changed since it was loaded; a version stays as it is, expected a new one beside it"
        )
    return file.stamp
