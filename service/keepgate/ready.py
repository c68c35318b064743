"""The file that tells who waits for it that the server answers, and where."""

from __future__ import annotations

from pathlib import Path

from keepgate.errors import ConfigError


def check(path: Path) -> None:
    """Raises ConfigError if the file could not be written."""
    if path.is_dir():
        raise ConfigError(f"ready_file: {path} is a directory, expected a file")
    scratch = _beside(path)
    try:
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise ConfigError(f"ready_file: {path} cannot be written: {error.strerror}") from error


def write(path: Path, address: str) -> None:
    """Atomically: who sees the file sees all of it. Raises ConfigError."""
    scratch = _beside(path)
    try:
        scratch.write_text(address + "\n")
        scratch.replace(path)
    except OSError as error:
        raise ConfigError(f"ready_file: {path} cannot be written: {error.strerror}") from error


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")
