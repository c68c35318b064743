"""Specs: what is refused, and JSON there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    CharacterTokenizer,
    FeatureInput,
    LayerSpec,
    LinearHead,
    ModelSpec,
    SpecError,
    TokenInput,
)
from keepgate_kernels.spec_json import dump_spec, load_spec
from support.random_models import feature_spec, token_spec

PLAIN = LayerSpec(CellSpec(CellKind.LSTM), 8)


def test_tensors_are_named_and_shaped_as_in_pytorch() -> None:
    spec = token_spec("lstm", vocabulary=11, embedding=3, hidden=(8, 6), projection=4, peepholes=True)
    shapes = spec.tensors()
    assert shapes["embedding.weight"] == (11, 3)
    assert shapes["layers.0.weight_ih"] == (32, 3)
    assert shapes["layers.0.weight_hh"] == (32, 4)
    assert shapes["layers.0.weight_projection"] == (4, 8)
    assert shapes["layers.0.weight_peephole"] == (3, 8)
    assert shapes["layers.1.weight_ih"] == (24, 4)
    assert shapes["head.weight"] == (11, 4)
    assert spec.state_bytes == 4 * (4 + 8 + 4 + 6)
    assert token_spec("cifg", peepholes=True).tensors()["layers.0.weight_peephole"] == (2, 8)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: ModelSpec(TokenInput(0, 4), (PLAIN,), CategoricalHead(0)), "input.vocabulary_size"),
        (lambda: ModelSpec(TokenInput(9, 4), (PLAIN,), CategoricalHead(8)), "head.size"),
        (lambda: ModelSpec(TokenInput(9, 4), (PLAIN,), LinearHead(9)), "head"),
        (lambda: ModelSpec(FeatureInput(9), (PLAIN,), CategoricalHead(9)), "head"),
        (lambda: ModelSpec(FeatureInput(1 << 17), (PLAIN,), LinearHead(9)), "input.size"),
        (lambda: ModelSpec(FeatureInput(9), (), LinearHead(9)), "layers (count)"),
        (lambda: feature_spec(hidden=(8, 1 << 20)), "layers.1.hidden_size"),
        (lambda: feature_spec("gru", peepholes=True), "layers.0.cell"),
        (lambda: feature_spec("rnn_tanh", projection=3), "layers.0.cell"),
        (lambda: feature_spec("lstm", cell_clip=float("nan")), "layers.0.cell.cell_clip"),
        (lambda: feature_spec("lstm", cell_clip=-1.0), "layers.0.cell.cell_clip"),
        (lambda: feature_spec("lstm", cell_clip=1e39), "layers.0.cell.cell_clip"),
        (lambda: feature_spec("lstm", cell_clip=1e-50), "layers.0.cell.cell_clip"),
        (lambda: feature_spec("lstm", projection=-1), "layers.0.cell.projection"),
        (
            lambda: ModelSpec(TokenInput(2, 1), (PLAIN,), CategoricalHead(2), CharacterTokenizer(("a", "a"))),
            "tokenizer.vocabulary",
        ),
        (
            lambda: ModelSpec(
                TokenInput(2, 1), (PLAIN,), CategoricalHead(2), CharacterTokenizer(("a", "bc"))
            ),
            "tokenizer.vocabulary.1",
        ),
        (
            lambda: ModelSpec(TokenInput(2, 1), (PLAIN,), CategoricalHead(2), CharacterTokenizer(("a",))),
            "tokenizer.vocabulary (length)",
        ),
        (
            lambda: ModelSpec(FeatureInput(2), (PLAIN,), LinearHead(2), CharacterTokenizer(("a", "b"))),
            "tokenizer",
        ),
    ],
)
def test_invalid_specs_name_the_field(build: Any, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        build()
    assert caught.value.field == field


@given(
    kind=st.sampled_from(CellKind),
    hidden=st.lists(st.integers(1, 99), min_size=1, max_size=4),
    tokens=st.booleans(),
    words=st.text(max_size=20),
)
def test_json_round_trip(kind: CellKind, hidden: list[int], tokens: bool, words: str) -> None:
    layers = tuple(LayerSpec(CellSpec(kind), size) for size in hidden)
    if tokens:
        spec = ModelSpec(
            TokenInput(2, 5), layers, CategoricalHead(2), CharacterTokenizer(("\n", "\u00e9")), words
        )
    else:
        spec = ModelSpec(FeatureInput(5), layers, LinearHead(3), source=words, licence=words)
    assert load_spec(dump_spec(spec)) == spec
    assert dump_spec(load_spec(dump_spec(spec))) == dump_spec(spec)


def edited(**changes: Any) -> str:
    document = json.loads(dump_spec(token_spec()))
    document.update(changes)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "spec"),
        ("[" * 100_000, "spec"),
        ("9" * 5_000, "spec"),
        ("[]", "spec"),
        (edited(format=2), "spec.format"),
        (edited(format=True), "spec.format"),
        (edited(input=None), "spec.input"),
        (edited(input={"kind": "pixel"}), "spec.input.kind"),
        (edited(input={"kind": "token", "vocabulary_size": 11}), "spec.input.embedding_size"),
        (edited(input={"kind": "feature", "size": "3"}), "spec.input.size"),
        (edited(layers={}), "spec.layers"),
        (edited(layers=[3]), "spec.layers.0"),
        (edited(layers=[{"cell": "qrnn", "hidden_size": 8}]), "spec.layers.0.cell"),
        (edited(layers=[{"cell": "lstm", "hidden_size": 8.5}]), "spec.layers.0.hidden_size"),
        (edited(layers=[{"cell": "lstm", "hidden_size": 8, "peephole": True}]), "spec.layers.0.peephole"),
        (
            edited(layers=[{"cell": "lstm", "hidden_size": 8, "cell_clip": 10**400}]),
            "spec.layers.0.cell_clip",
        ),
        (edited(head={"kind": "categorical", "size": -1}), "head.size"),
        (edited(tokenizer={"kind": "bpe"}), "spec.tokenizer.kind"),
        (edited(tokenizer={"kind": "characters", "vocabulary": "abc"}), "spec.tokenizer.vocabulary"),
        (edited(colour="red"), "spec.colour"),
    ],
)
def test_bad_json_names_the_field(text: str, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(text)
    assert caught.value.field == field
    assert len(str(caught.value)) < 250


def test_errors_do_not_repeat_a_whole_file() -> None:
    with pytest.raises(SpecError, match="vocabulary") as caught:
        load_spec(edited(tokenizer={"kind": "characters", "vocabulary": ["a"] * 200_000 + [5]}))
    assert len(str(caught.value)) < 250


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_other_json_is_a_spec_error(document: Any) -> None:
    with pytest.raises(SpecError):
        load_spec(json.dumps(document))
