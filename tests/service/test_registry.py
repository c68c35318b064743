"""The model repository: what serves, what is refused, which version is the newest."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from keepgate.errors import InvalidArgumentError, ModelNotFoundError, RepositoryError, UnknownCharacterError
from keepgate.models.registry import LoadReport, load_repository
from keepgate.models.tokenizer import CharacterCodec
from support.random_models import token_spec
from support.repositories import write_model

NOBODY = 65_534


def load(directory: Path) -> LoadReport:
    return load_repository(directory, max_bytes=1 << 20, slots=2)


def test_sorted_by_name_then_by_number(tmp_path: Path) -> None:
    for name, version in [("b", 1), ("a", 10), ("a", 9), ("a", 1)]:
        write_model(tmp_path, name, version, token_spec())
    registry = load(tmp_path).registry
    assert [tuple(model.key) for model in registry] == [("a", "1"), ("a", "9"), ("a", "10"), ("b", "1")]
    assert registry.get("a").key.version == "10"
    assert registry.get("a", "9").key.version == "9"


def test_unknown_models_are_named_and_so_are_the_loaded(tmp_path: Path) -> None:
    write_model(tmp_path, "a", 1, token_spec())
    registry = load(tmp_path).registry
    with pytest.raises(ModelNotFoundError, match="model 'b' is not loaded; loaded: a/1"):
        registry.get("b")
    with pytest.raises(ModelNotFoundError, match="version '2' of model 'a' is not loaded"):
        registry.get("a", "2")
    with pytest.raises(InvalidArgumentError, match="name: got nothing"):
        registry.get("", field="name")


def test_a_bad_model_does_not_keep_the_others_from_serving(tmp_path: Path) -> None:
    write_model(tmp_path, "good", 1, token_spec())
    write_model(tmp_path, "cut", 1, token_spec()).write_bytes(b"123")
    write_model(tmp_path, "names with spaces", 1, token_spec())
    write_model(tmp_path, "versions", 0, token_spec())
    (tmp_path / "versions" / "latest").mkdir()
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "README.md").write_text("no model")
    (tmp_path / ".git" / "1").mkdir(parents=True)
    report = load(tmp_path)
    assert [model.key.name for model in report.registry] == ["good"]
    faults = [str(error).removeprefix(str(tmp_path)) for error in report.refused]
    assert faults == [
        "/cut/1/model.safetensors: truncated: 3 bytes hold no header length",
        "/empty/1/model.safetensors: cannot be read: No such file or directory",
        "/names with spaces/1/model.safetensors: name 'names with spaces', expected letters, digits, '.', "
        "'_' and '-'",
        "/versions/0/model.safetensors: version '0', expected a positive integer",
        "/versions/latest/model.safetensors: version 'latest', expected a positive integer",
    ]


def test_a_repository_that_serves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="it is empty"):
        load(tmp_path)
    write_model(tmp_path, "cut", 1, token_spec()).write_bytes(b"123")
    with pytest.raises(RepositoryError, match=r"cut/1/model\.safetensors: truncated"):
        load(tmp_path)
    with pytest.raises(RepositoryError, match="cannot be read: No such file"):
        load(tmp_path / "none")


def test_a_file_without_its_folders_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path, "a", 1, token_spec())
    with pytest.raises(RepositoryError, match=rf"to serve version 1 of model 'a', set models to {tmp_path}$"):
        load(tmp_path / "a")
    with pytest.raises(RepositoryError, match=rf"to serve version 1 of model 'a', set models to {tmp_path}$"):
        load(tmp_path / "a" / "1")
    flat = tmp_path / "b" / "model.safetensors"
    flat.parent.mkdir()
    flat.write_bytes(model.read_bytes())
    report = load(tmp_path)
    assert [model.key.name for model in report.registry] == ["a"]
    (fault,) = report.refused
    assert str(fault) == (
        f"{flat}: is not in <name>/<version>/ of the repository; for a model 'b', it belongs in "
        f"{tmp_path}/b/1/model.safetensors"
    )


def test_what_is_there_instead_of_models_is_named(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).touch()
    with pytest.raises(RepositoryError, match=r"found only a, b, c, d, e, \.\.\.$"):
        load(tmp_path)


def test_a_folder_that_cannot_be_read_keeps_no_other_from_serving() -> None:
    # Not tmp_path: only its owner may go in there.
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_model(directory, "good", 1, token_spec())
        write_model(directory, "closed", 1, token_spec())
        directory.chmod(0o755)
        (directory / "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)  # root may read everything
        try:
            report = load(directory)
        finally:
            os.seteuid(user)
            (directory / "closed").chmod(0o755)
        assert [model.key.name for model in report.registry] == ["good"]
        (fault,) = report.refused
        assert str(fault) == f"{directory}/closed: cannot be read: Permission denied"


def test_characters() -> None:
    codec = CharacterCodec("abé\n")
    assert codec.encode("béa\n").tolist() == [1, 2, 0, 3]
    assert codec.decode([1, 2, 0, 3]) == "béa\n"
    with pytest.raises(UnknownCharacterError, match="'x' at index 2") as caught:
        codec.encode("abxy")
    assert (caught.value.character, caught.value.index) == ("x", 2)
