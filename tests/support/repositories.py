"""Model repositories of small random models, written to disk as users would have them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from keepgate.models.format import save_model
from keepgate_kernels import CharacterTokenizer, ModelSpec

from support.random_models import feature_spec, random_tensors, token_spec

ALPHABET = "abcdefghijklmnopqrstuvwxyz ,.\n"
"""The vocabulary of `characters_spec`: token id i is ALPHABET[i]."""


def characters_spec(kind: str = "lstm", hidden: tuple[int, ...] = (16,)) -> ModelSpec:
    """A token model over ALPHABET, with a tokenizer."""
    spec = token_spec(kind, vocabulary=len(ALPHABET), embedding=4, hidden=hidden)
    return dataclasses.replace(
        spec, tokenizer=CharacterTokenizer(tuple(ALPHABET)), description="random weights", licence="CC0-1.0"
    )


def write_model(repository: Path, name: str, version: int, spec: ModelSpec, seed: int = 0) -> Path:
    """Write DIR/<name>/<version>/model.safetensors with random weights; its path."""
    path = repository / name / str(version) / "model.safetensors"
    save_model(path, spec, random_tensors(spec, seed))
    return path


def write_repository(repository: Path) -> Path:
    """Models "letters" (characters; versions 1 and 2), "ids" (no tokenizer) and "vectors"
    (features)."""
    write_model(repository, "letters", 1, characters_spec("lstm"))
    write_model(repository, "letters", 2, characters_spec("gru", hidden=(16, 12)), seed=2)
    write_model(repository, "ids", 1, token_spec("cifg", vocabulary=11), seed=3)
    write_model(repository, "vectors", 1, feature_spec("gru", size=3, outputs=2), seed=4)
    return repository
