"""ModelSpec to JSON and back, with errors that name the field."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from keepgate_kernels.spec import (
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

FORMAT_VERSION = 1


def dump_spec(spec: ModelSpec) -> str:
    """JSON with sorted keys: the same spec gives the same text."""
    document: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "layers": [
            {
                "cell": layer.cell.kind.value,
                "hidden_size": layer.hidden_size,
                "peepholes": layer.cell.peepholes,
                "projection": layer.cell.projection,
                "cell_clip": layer.cell.cell_clip,
            }
            for layer in spec.layers
        ],
        "description": spec.description,
        "source": spec.source,
        "licence": spec.licence,
    }
    if isinstance(spec.input, TokenInput):
        document["input"] = {
            "kind": "token",
            "vocabulary_size": spec.input.vocabulary_size,
            "embedding_size": spec.input.embedding_size,
        }
    else:
        document["input"] = {"kind": "feature", "size": spec.input.size}
    head_kind = "categorical" if isinstance(spec.head, CategoricalHead) else "linear"
    document["head"] = {"kind": head_kind, "size": spec.head.size}
    if spec.tokenizer is not None:
        document["tokenizer"] = {
            "kind": "characters",
            "vocabulary": list(spec.tokenizer.vocabulary),
        }
    return json.dumps(document, sort_keys=True)


def load_spec(text: str) -> ModelSpec:
    """Read what `dump_spec` wrote. Raises SpecError naming the field at fault."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # also an integer of too many digits
        raise SpecError("spec", text[:40], "a JSON document") from error
    root = _Object("spec", document)
    version = root.integer("format")
    if version != FORMAT_VERSION:
        raise SpecError("spec.format", version, f"{FORMAT_VERSION}")
    spec = ModelSpec(
        input=_input(root.child("input")),
        layers=tuple(_layer(layer) for layer in root.children("layers")),
        head=_head(root.child("head")),
        tokenizer=_tokenizer(root.child("tokenizer")) if "tokenizer" in root.fields else None,
        description=root.text("description", ""),
        source=root.text("source", ""),
        licence=root.text("licence", ""),
    )
    root.no_others()
    return spec


def _input(node: _Object) -> TokenInput | FeatureInput:
    kind = node.text("kind")
    part: TokenInput | FeatureInput
    if kind == "token":
        part = TokenInput(node.integer("vocabulary_size"), node.integer("embedding_size"))
    elif kind == "feature":
        part = FeatureInput(node.integer("size"))
    else:
        node.fail("kind", "token or feature")
    node.no_others()
    return part


def _layer(node: _Object) -> LayerSpec:
    kind = node.text("cell")
    if kind not in set(CellKind):
        node.fail("cell", "one of " + ", ".join(CellKind))
    cell = CellSpec(
        CellKind(kind),
        peepholes=node.boolean("peepholes", False),
        projection=node.integer("projection", 0),
        cell_clip=node.number("cell_clip", 0.0),
    )
    layer = LayerSpec(cell, node.integer("hidden_size"))
    node.no_others()
    return layer


def _head(node: _Object) -> CategoricalHead | LinearHead:
    kind = node.text("kind")
    part: CategoricalHead | LinearHead
    if kind == "categorical":
        part = CategoricalHead(node.integer("size"))
    elif kind == "linear":
        part = LinearHead(node.integer("size"))
    else:
        node.fail("kind", "categorical or linear")
    node.no_others()
    return part


def _tokenizer(node: _Object) -> CharacterTokenizer:
    if node.text("kind") != "characters":
        node.fail("kind", "characters")
    entries = node.get("vocabulary")
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        node.fail("vocabulary", "a list of strings")
    node.no_others()
    return CharacterTokenizer(tuple(entries))


class _Object:
    """A JSON object that is read field by field; what is missing, mistyped or left over is an error."""

    def __init__(self, path: str, value: object) -> None:
        if not isinstance(value, dict):
            raise SpecError(path, value, "a JSON object")
        self.path = path
        self.fields: dict[str, Any] = value
        self._read: set[str] = set()

    def fail(self, name: str, expected: str) -> NoReturn:
        raise SpecError(f"{self.path}.{name}", self.fields.get(name), expected)

    def get(self, name: str, default: object = None) -> Any:
        self._read.add(name)
        if name in self.fields:
            return self.fields[name]
        if default is None:
            raise SpecError(f"{self.path}.{name}", None, "a value: the field is required")
        return default

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(name, "an integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.fail(name, "a number")
        try:
            return float(value)
        except OverflowError:
            self.fail(name, "a number that float64 can hold")

    def boolean(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.get(name, default)
        if not isinstance(value, str):
            self.fail(name, "a string")
        return value

    def child(self, name: str) -> _Object:
        return _Object(f"{self.path}.{name}", self.get(name))

    def children(self, name: str) -> list[_Object]:
        values = self.get(name)
        if not isinstance(values, list):
            self.fail(name, "a list")
        return [_Object(f"{self.path}.{name}.{index}", value) for index, value in enumerate(values)]

    def no_others(self) -> None:
        for name in sorted(self.fields.keys() - self._read):
            raise SpecError(f"{self.path}.{name}", self.fields[name], "no such field in this format")
