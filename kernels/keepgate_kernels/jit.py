"""How kernels are jitted and where the compiled code is kept.

Numba's own cache looks only at the source file of the cached function. A kernel here is assembled from
several files, so the cache is keyed by a digest of all of them, and lives under the first of
    $KEEPGATE_KERNEL_CACHE, $NUMBA_CACHE_DIR, $XDG_CACHE_HOME/keepgate, ~/.cache/keepgate.
A cache that cannot be written (a container's image, a read-only file system) is copied to a temporary
folder, so that a processor unlike the one it was made on still finds somewhere to put its code.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numba.core.config
from numba.core.caching import UserProvidedCacheLocator

from keepgate_kernels.cpu.chosen import RUNG

PACKAGE = Path(__file__).parent

Function = TypeVar("Function", bound=Callable[..., Any])


@functools.cache
def source_digest() -> str:
    """SHA-256 over the package's sources, but for those of other devices: 16 hexadecimal digits."""
    return _digest(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("cuda/*.py")))


@functools.cache
def device_digest() -> str:
    """Likewise over those of other devices."""
    return _digest(set(PACKAGE.glob("cuda/*.py")))


def _digest(paths: set[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_directory() -> Path:
    """The folder that holds the kernels of exactly these sources and this rung; it can be written."""
    environment = os.environ
    base = environment.get("KEEPGATE_KERNEL_CACHE") or environment.get("NUMBA_CACHE_DIR")
    if not base:
        user = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        base = os.path.join(user, "keepgate")
    wanted = Path(base) / f"kernels-{source_digest()}-{RUNG.name}"
    if _is_writable(wanted):
        return wanted
    substitute = Path(tempfile.mkdtemp(prefix="keepgate-kernels-"))
    atexit.register(shutil.rmtree, substitute, ignore_errors=True)
    if wanted.is_dir():
        for path in wanted.iterdir():
            shutil.copyfile(path, substitute / path.name)
    return substitute


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


class KernelCacheLocator(UserProvidedCacheLocator):
    """Tells Numba to cache in `cache_directory()`, stale as soon as any source of the package changes.

    The folder is of the CPU's sources; what another device's code jits for the host is stale with theirs too.
    """

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        self._cache_path = str(cache_directory())

    def get_source_stamp(self) -> str:
        is_of_device = Path(self._py_file).parent == PACKAGE / "cuda"
        return source_digest() + (device_digest() if is_of_device else "")

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> KernelCacheLocator:
        return cls(py_func, py_file)


@contextmanager
def cached() -> Iterator[None]:
    """What is jitted with `cache=True` within is kept in `cache_directory()`."""
    config: Any = numba.core.config
    configured = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.{KernelCacheLocator.__name__}"
    try:
        yield
    finally:
        config.CACHE_LOCATOR_CLASSES = configured


def entry(function: Function) -> Function:
    """Jit a function that Python calls: cached on disk, without the GIL."""
    with cached():
        return _njit(function, cache=True, nogil=True)


def part(*, inline: bool = False) -> Callable[[Function], Function]:
    """Jit a function that only kernels call.

    inline: always put it into its callers' code. A call passes seven words for each array and counts a
    reference, tens of nanoseconds in all, which matters where a call does little more than that.
    """
    return functools.partial(_njit, forceinline=inline)


def _njit(function: Function, **options: Any) -> Function:
    # A dispatcher is called like the function it jits, so that is the type it is given.
    jitted: Any = numba.njit(error_model="numpy", **options)(function)
    return cast(Function, jitted)
