"""`keepgate score` and `keepgate show` without a server: what each precision costs and takes."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keepgate.config import BUNDLED_MODELS
from keepgate.models.format import load_model, save_model
from keepgate.models.tokenizer import CharacterCodec
from keepgate.scoring import PIECE, PrecisionScore, score_precisions
from keepgate_client import Client
from keepgate_kernels import PRECISIONS, packed_bytes
from support.commands import keepgate
from support.random_models import random_tensors
from support.repositories import characters_spec
from support.servers import ServerProcess

ROOT = Path(__file__).parents[2]
HELD_OUT = ROOT / "training" / "corpus" / "held_out.txt"
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 300
SAMPLE = 20_000
"""Characters of the held-out text that a test scores in each precision."""
COST = {"fp32": 0.0, "bf16": 0.002, "int8": 0.005}
"""By how much a precision may change the bits a character, as a fraction of fp32's."""
CELLS = ("rnn", "lstm", "cifg", "gru")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(TEXT)
    return path


def model_file(repository: Path) -> Path:
    return repository / "letters" / "2" / "model.safetensors"


def table(page: str) -> dict[str, list[str]]:
    """The rows of a table of precisions by their first column."""
    rows = [line.split() for line in page.splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0] in PRECISIONS}


# --- scoring ---


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_precision_costs_on_held_out_text(cell: str) -> None:
    file = load_model(BUNDLED_MODELS / f"shakespeare-{cell}" / "1" / "model.safetensors")
    assert file.spec.tokenizer is not None
    tokens = CharacterCodec(file.spec.tokenizer.vocabulary).encode(HELD_OUT.read_text()[:SAMPLE])
    exact, *others = score_precisions(file, tokens, list(PRECISIONS))
    assert exact.scored == SAMPLE - 1
    assert 1.5 < exact.bits_per_token < 2.6  # trained: log2(78) is 6.3
    for score in others:
        assert score.scored == exact.scored
        assert abs(score.against(exact)) <= COST[score.precision]
        assert score.log_likelihood != exact.log_likelihood  # it is another precision, not fp32 renamed


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_score_is_that_of_the_server(
    name: str, repository: Path, start_server: Callable[..., ServerProcess]
) -> None:
    file = load_model(model_file(repository))
    assert file.spec.tokenizer is not None
    tokens = CharacterCodec(file.spec.tokenizer.vocabulary).encode(TEXT)
    assert len(tokens) > 3 * PIECE
    (score,) = score_precisions(file, tokens, [name], threads=2)
    with Client(start_server(precision=name).address) as client:
        expected = client.score("letters", text=TEXT)
    assert score.precision == name
    assert score.scored == expected.scored
    assert math.isclose(score.log_likelihood, expected.log_likelihood, rel_tol=1e-12)
    assert score.weight_bytes == packed_bytes(file.spec, name)
    assert score.seconds_per_token > 0


def test_progress_and_refusals(repository: Path) -> None:
    file = load_model(model_file(repository))
    seen: list[int] = []
    score_precisions(file, np.zeros(PIECE + 5, np.uint32), list(PRECISIONS), progress=seen.append)
    assert seen == [PIECE, 5]
    with pytest.raises(ValueError, match="tokens: got 1, expected at least 2"):
        score_precisions(file, np.zeros(1, np.uint32), list(PRECISIONS))
    with pytest.raises(ValueError, match="precision: got 'int4'"):
        score_precisions(file, np.zeros(2, np.uint32), ["int4"])


def test_against() -> None:
    def score(likelihood: float) -> PrecisionScore:
        return PrecisionScore("fp32", likelihood, 100, 1, 1e-6)

    assert math.isclose(score(-101.0).against(score(-100.0)), 0.01)
    assert math.isclose(score(-99.0).against(score(-100.0)), -0.01)
    assert score(0.0).against(score(0.0)) == 0.0  # a vocabulary of one
    assert score(-1.0).against(score(0.0)) == math.inf


# --- keepgate score ---


def test_compare_precisions(repository: Path, text: Path) -> None:
    arguments = ["score", "letters", str(text), "--models", str(repository), "--precision", "all"]
    result = json.loads(keepgate(*arguments, "--json", KEEPGATE_SERVER="127.0.0.1:1").stdout)
    file = load_model(model_file(repository))
    assert (result["model"], result["characters"]) == ("letters/2", len(TEXT) - 1)
    assert (result["parameters"], result["file_bytes"]) == (file.spec.parameters, file.file_bytes)
    rows = {row.pop("precision"): row for row in result["precisions"]}
    assert tuple(rows) == PRECISIONS
    exact = rows["fp32"]
    for name, row in rows.items():
        assert row["weight_bytes"] == packed_bytes(file.spec, name)
        assert math.isclose(
            row["bits_per_character"], -row["log_likelihood"] / math.log(2) / result["characters"]
        )
        expected = row["bits_per_character"] / exact["bits_per_character"] - 1
        assert math.isclose(row["against_fp32"], expected, abs_tol=1e-12)
        assert row["microseconds_per_character"] > 0

    page = keepgate(*arguments).stdout
    shown = table(page)
    assert tuple(shown) == PRECISIONS
    for name, row in rows.items():
        assert shown[name][0] == f"{row['bits_per_character']:.5f}"
        if name != "fp32":
            assert f"{100 * row['against_fp32']:+.3f} %" in " ".join(shown[name])
    assert f"{len(TEXT) - 1:,} characters scored by letters/2: {file.spec.parameters:,} parameters" in page


@pytest.mark.parametrize("name", PRECISIONS)
def test_one_precision(name: str, repository: Path, text: Path) -> None:
    where = ["--models", str(repository), "--json"]
    result = json.loads(keepgate("score", "letters", str(text), "--precision", name, *where).stdout)
    (row,) = result["precisions"]
    assert row["precision"] == name
    assert (row["against_fp32"] is None) == (name != "fp32")
    # Without the option, the one that the settings choose, and the answer has the form of a server's.
    plain = keepgate("score", "letters", str(text), *where, KEEPGATE_PRECISION=f"letters={name}").stdout
    assert json.loads(plain) == {
        "model": "letters/2",
        "precision": name,
        "bits_per_character": row["bits_per_character"],
        "characters": result["characters"],
        "log_likelihood": row["log_likelihood"],
    }


def test_a_model_file_by_its_path(repository: Path, text: Path, tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    shutil.copyfile(model_file(repository), path)
    by_path = json.loads(keepgate("score", str(path), str(text), "--json").stdout)
    by_name = json.loads(
        keepgate("score", "letters/2", str(text), "--json", "--models", str(repository)).stdout
    )
    assert by_path == {**by_name, "model": str(path)}
    shown = json.loads(keepgate("show", str(path), "--json").stdout)
    other = json.loads(keepgate("show", "letters", "--json", "--models", str(repository)).stdout)
    assert shown == {**other, "name": str(path), "version": ""}
    assert keepgate("show", str(path)).stdout.splitlines()[0].split() == ["Model", str(path)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["letters", "{text}", "--precision", "int4"], 2, "precision: got 'int4', expected one of fp32"),
        (
            ["letters/7", "{text}", "--precision", "all"],
            1,
            "'letters/7' is not in {repository}; there: ids/1",
        ),
        (["nothing", "{text}", "--precision", "fp32"], 1, "model 'nothing' is not in {repository}; there:"),
        (["/no.safetensors", "{text}"], 1, "/no.safetensors: cannot be read: No such file"),
        (["{text}.safetensors", "{text}"], 1, "truncated"),
        (["ids", "{text}", "--precision", "fp32"], 1, "model 'ids/1' has no tokenizer"),
        (["vectors", "{text}", "--precision", "fp32"], 1, "model 'vectors/1' has no tokenizer"),
        (
            ["letters", "{upper}", "--precision", "fp32"],
            1,
            "{upper}, line 301: got 'N', expected a character",
        ),
        (["letters", "{short}", "--precision", "fp32"], 1, "got 1 characters, expected at least 2"),
    ],
)
def test_what_cannot_be_scored(
    arguments: list[str], code: int, message: str, repository: Path, text: Path, tmp_path: Path
) -> None:
    upper, short = tmp_path / "upper", tmp_path / "short"
    upper.write_text(TEXT + "oh No\n")
    short.write_text("a")
    text.with_name("text.safetensors").write_bytes(b"123")
    names = {"text": text, "upper": upper, "short": short, "repository": repository}
    words = [word.format(**names) for word in arguments]
    result = keepgate("score", *words, code=code, KEEPGATE_MODELS=str(repository))
    assert message.format(**names) in result.stderr
    assert result.stdout == ""


def test_a_model_that_overflows(text: Path, tmp_path: Path) -> None:
    spec = characters_spec("rnn_relu")
    tensors = {name: np.abs(values) for name, values in random_tensors(spec).items()}
    tensors["layers.0.weight_hh"][:] = 10.0
    path = tmp_path / "growing.safetensors"
    save_model(path, spec, tensors)
    refused = keepgate("score", str(path), str(text), code=1).stderr
    assert "in fp32: the score is not finite: the state overflows on this text" in refused


# --- keepgate show ---


def test_show_tells_the_size_in_every_precision(repository: Path, server: ServerProcess) -> None:
    file = load_model(model_file(repository))
    expected = [{"precision": name, "weight_bytes": packed_bytes(file.spec, name)} for name in PRECISIONS]

    asked: dict[str, Any] = json.loads(
        keepgate("show", "letters", "--json", "--server", server.address).stdout
    )
    assert (asked["precision"], asked["precisions"]) == ("fp32", expected)
    for chosen in PRECISIONS:
        command = ["show", "letters", "--models", str(repository)]
        found = json.loads(keepgate(*command, "--json", KEEPGATE_PRECISION=f"letters={chosen}").stdout)
        assert (found["precision"], found["precisions"]) == (chosen, expected)
        page = keepgate(*command, KEEPGATE_PRECISION=f"letters={chosen}").stdout
        marked = re.findall(r"^(?:Weights)? +(\w+) +[\d.]+ (?:KiB|B) +(chosen)?", page, re.MULTILINE)
        assert marked == [(name, "chosen" if name == chosen else "") for name in PRECISIONS]


def test_a_precision_for_a_model_that_is_not_there(repository: Path) -> None:
    expected = "precision: got 'lettres', expected a model of the repository; there: ids/1, letters/1"
    for command in (["list"], ["serve", "--port", "0"]):
        refused = keepgate(
            *command, "--models", str(repository), code=1, KEEPGATE_PRECISION=f"lettres={PRECISIONS[-1]}"
        )
        assert expected in refused.stderr


def test_repeated_flags_of_serve(repository: Path) -> None:
    """A flag given twice is a list; the second one's model is not there, so both were read."""
    flags = ["--precision", PRECISIONS[-1], "--precision", f"lettres={PRECISIONS[0]}"]
    refused = keepgate("serve", "--models", str(repository), "--port", "0", *flags, code=1)
    assert "precision: got 'lettres', expected a model" in refused.stderr
    unknown = keepgate("serve", "--models", str(repository), "--port", "0", "--precision", "int4", code=2)
    assert "precision: got 'int4', expected one of" in unknown.stderr
