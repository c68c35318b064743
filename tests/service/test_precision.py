"""The precision of each model: chosen by settings, used by the kernels, told to clients."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keepgate.config import DEFAULT_THREADS, load_settings
from keepgate.cores import usable_cores
from keepgate.errors import ConfigError, PrecisionError
from keepgate.models.format import load_model
from keepgate.models.precision import PrecisionChoice, parse_precisions
from keepgate.models.registry import LoadReport, load_repository
from keepgate_kernels import PRECISIONS, Lanes, Network, Sampling, packed_bytes
from keepgate_protos.v1 import models_pb2
from numpy.typing import NDArray
from support.random_models import token_spec
from support.repositories import ALPHABET, write_model
from support.servers import ServerProcess
from support.wire import connect

EXACT, LEAST = PRECISIONS[0], PRECISIONS[-1]
EXPECTED = f"expected one of {', '.join(PRECISIONS)}"
TEXT = "the quick brown fox jumps over the lazy dog.\n"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "PRECISION", "THREADS"):
        monkeypatch.delenv(f"KEEPGATE_{name}", raising=False)


# --- the choice ---


def test_the_more_specific_choice_counts() -> None:
    choice = PrecisionChoice("int8", {"letters": "bf16", "letters/2": "fp32"})
    assert choice.of("ids", "1") == "int8"
    assert choice.of("letters", "1") == "bf16"
    assert choice.of("letters", "2") == "fp32"
    assert str(choice) == "int8,letters=bf16,letters/2=fp32"


@pytest.mark.parametrize("name", PRECISIONS)
def test_parsing(name: str) -> None:
    parse = PrecisionChoice.parse
    assert parse(name) == PrecisionChoice(name)
    assert parse(f"letters/2={name}") == PrecisionChoice(EXACT, {"letters/2": name})
    mixed = PrecisionChoice(name, {"a": EXACT, "b": name})
    assert parse([name, f"a={EXACT}", f"b={name}"]) == mixed
    assert parse(f"a={EXACT}, b={name} ,{name}") == mixed
    assert parse(str(mixed)) == parse(mixed) == mixed
    assert parse([LEAST, f"a={LEAST}", f"a={name}", name]) == PrecisionChoice(name, {"a": name})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("int4", f"precision: got 'int4', {EXPECTED}"),
        ("FP32", f"precision: got 'FP32', {EXPECTED}"),
        ("", f"precision: got '', {EXPECTED}"),
        ("fp32,", f"precision: got '', {EXPECTED}"),
        ("letters=int4", f"precision: got 'int4', {EXPECTED}"),
        ("letters=", f"precision: got '', {EXPECTED}"),
        ("=fp32", "precision: got '=fp32', expected NAME=fp32"),
        (["fp32", "letters=7"], f"precision: got '7', {EXPECTED}"),
        (16, "precision: got 16, expected a text or a list of texts"),
        (["fp32", 16], "precision: got ['fp32', 16], expected a text or a list of texts"),
    ],
)
def test_what_is_no_choice(value: object, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(precision=value)
    assert str(caught.value) == fault


def test_flag_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keepgate.toml"
    file.write_text(f'precision = ["{LEAST}", "a={EXACT}"]\nthreads = 3\n')
    settings = load_settings(config=file)
    assert settings.precision == PrecisionChoice(LEAST, {"a": EXACT})
    assert settings.thread_count == 3
    monkeypatch.setenv("KEEPGATE_PRECISION", f"b={LEAST}")
    monkeypatch.setenv("KEEPGATE_THREADS", "2")
    settings = load_settings(config=file)
    assert settings.precision == PrecisionChoice(EXACT, {"b": LEAST})  # nothing of the file's is left
    assert settings.thread_count == 2
    settings = load_settings(config=file, precision=[f"c={LEAST}"], threads=1)
    assert settings.precision == PrecisionChoice(EXACT, {"c": LEAST})
    assert settings.thread_count == 1


def test_all_precisions_by_one_word() -> None:
    assert parse_precisions(["all"]) == list(PRECISIONS)
    assert parse_precisions([f"{LEAST},{EXACT}", LEAST]) == list(dict.fromkeys((EXACT, LEAST)))
    with pytest.raises(ValueError, match=f"precision: got 'int4', {EXPECTED}"):
        parse_precisions(["all", "int4"])


# --- threads ---


def test_threads_are_the_cores_that_may_be_used(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(tmp_path) == cores  # no control group limits them
    limit = tmp_path / "cpu.max"
    for text, expected in (
        ("max 100000", cores),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 64),
        ("nonsense", cores),
        ("1 0", cores),
    ):
        limit.write_text(f"{text}\n")
        assert usable_cores(tmp_path) == min(cores, expected), text
    limit.unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in ((-1, cores), (100_000, 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert usable_cores(tmp_path) == expected
    assert load_settings().thread_count == min(usable_cores(), DEFAULT_THREADS)


@pytest.mark.parametrize(("threads", "fault"), [(-1, "threads: got -1"), (1_000, "threads: got 1000")])
def test_threads_out_of_range(threads: int, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_settings(threads=threads)


# --- loading ---


def load(directory: Path, precision: PrecisionChoice) -> LoadReport:
    return load_repository(directory, max_bytes=1 << 20, slots=2, precision=precision)


@pytest.mark.parametrize("name", PRECISIONS)
def test_each_model_is_loaded_in_its_own_precision(name: str, tmp_path: Path) -> None:
    for model, version in (("a", 1), ("a", 2), ("b", 1), ("c", 1)):
        write_model(tmp_path, model, version, token_spec())
    choice = PrecisionChoice(name, {"a": LEAST, "a/2": EXACT, "b": EXACT})
    models = list(load(tmp_path, choice).registry)
    assert [model.network.precision for model in models] == [LEAST, EXACT, EXACT, name]
    for loaded in models:
        assert tuple(loaded.packed_bytes) == PRECISIONS
        assert loaded.packed_bytes[loaded.network.precision] == loaded.network.weight_bytes
    assert len({model.network.fingerprint for model in models}) == 1  # of the model, not of how it is kept


def test_a_precision_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    write_model(tmp_path, "a", 1, token_spec())
    write_model(tmp_path, "cut", 1, token_spec()).write_bytes(b"123")
    with pytest.raises(PrecisionError) as caught:
        load(tmp_path, PrecisionChoice(EXACT, {"b": EXACT, "a": EXACT, "a/2": EXACT}))
    assert caught.value.models == ["b", "a/2"]
    assert str(caught.value) == (
        "precision: got 'b', 'a/2', expected a model of the repository; there: a/1, cut/1"
    )
    report = load(tmp_path, PrecisionChoice(EXACT, {"cut": EXACT}))  # it is there, though it cannot serve
    assert [model.key.name for model in report.registry] == ["a"]


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "cifg", "gru", "gru_reset_before"])
def test_a_coarser_precision_takes_less_memory(kind: str) -> None:
    spec = token_spec(kind, vocabulary=78, embedding=64, hidden=(256, 256))
    sizes = [packed_bytes(spec, name) for name in PRECISIONS]
    assert sizes == sorted(set(sizes), reverse=True)


# --- serving ---


def scores_in_process(path: Path, precision: str, tokens: NDArray[np.uint32]) -> list[float]:
    """What the kernels say of the tokens after the first, without a server and on one thread."""
    file = load_model(path)
    network = Network(file.spec, file.tensors, slots=1, precision=precision)
    lanes = Lanes(file.spec)
    slot = network.slots.allocate()
    assert slot is not None
    lanes.add(slot, tokens, position=len(tokens), sampling=Sampling(), predict=False, score=True)
    network.step(lanes)
    return [float(value) for value in lanes.scores(0)[1:]]


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_server_uses_and_tells_the_precisions(
    name: str, start_server: Callable[..., ServerProcess], repository: Path
) -> None:
    server = start_server(precision=f"{name},letters/1={EXACT},vectors={LEAST}", threads=2)
    expected = {("ids", "1"): name, ("letters", "1"): EXACT, ("letters", "2"): name, ("vectors", "1"): LEAST}
    tokens = np.array([ALPHABET.index(character) for character in TEXT], np.uint32)
    with connect(server.address) as wire:
        models = wire.models.List(models_pb2.ListModelsRequest()).models
        assert {(model.name, model.version): model.precision for model in models} == expected
        for model in models:
            sizes = {size.precision: size.weight_bytes for size in model.precisions}
            assert tuple(sizes) == PRECISIONS
            assert model.weight_bytes == sizes[model.precision] > 0
            described = wire.models.Describe(
                models_pb2.DescribeModelRequest(name=model.name, version=model.version)
            )
            assert described.model == model
        for version in ("1", "2"):
            session = wire.open(version=version)
            score = wire.score(session, TEXT, per_token=True)
            path = repository / "letters" / version / "model.safetensors"
            chosen = expected["letters", version]
            assert list(score.log_probabilities) == scores_in_process(path, chosen, tokens)
    log = server.log()
    assert f'"precision": "{name}"' in log
    assert '"threads": 2' in log
