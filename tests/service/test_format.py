"""Model files: what is written comes back, and what is damaged is refused with its fault named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keepgate.errors import ModelFileError
from keepgate.models.format import METADATA_KEY, load_model, save_model
from keepgate_kernels import CellKind
from keepgate_kernels.spec_json import dump_spec
from support.random_models import random_tensors, token_spec
from support.repositories import characters_spec

SPEC = characters_spec("lstm", hidden=(5,))
TENSORS = random_tensors(SPEC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good model file."""
    path = tmp_path / "model.safetensors"
    save_model(path, SPEC, TENSORS)
    return path


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def edit(path: Path, change: Callable[[dict[str, Any], bytes], bytes | None]) -> None:
    """Rewrite a file after a change of its header in place, and perhaps of its payload."""
    header, payload = split(path.read_bytes())
    changed = change(header, payload)
    path.write_bytes(join(header, payload if changed is None else changed))


def refused(path: Path, fault: str, *, max_bytes: int = 1 << 20) -> ModelFileError:
    with pytest.raises(ModelFileError, match=fault) as caught:
        load_model(path, max_bytes=max_bytes)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", CellKind)
def test_round_trip(tmp_path: Path, kind: CellKind) -> None:
    spec = token_spec(kind, hidden=(6, 4))
    tensors = random_tensors(spec)
    path = tmp_path / "new" / "folder" / "model.safetensors"
    save_model(path, spec, tensors)
    file = load_model(path)
    assert file.spec == spec
    assert file.file_bytes == path.stat().st_size
    assert file.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(file.tensors[name], tensor)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no scratch file is left


def test_strided_tensors_are_written_as_they_read(tmp_path: Path) -> None:
    tensors = {name: np.asfortranarray(tensor) for name, tensor in TENSORS.items()}
    save_model(tmp_path / "m", SPEC, tensors)
    for name, tensor in load_model(tmp_path / "m").tensors.items():
        np.testing.assert_array_equal(tensor, TENSORS[name])


@pytest.mark.parametrize(
    ("name", "tensor", "fault"),
    [
        ("head.bias", np.zeros(30), "dtype is float64, expected float32"),
        ("head.bias", np.zeros(31, np.float32), r"shape is \(31,\), expected \(30,\)"),
        ("head.bias", np.full(30, np.nan, np.float32), "30 weights are NaN or infinite"),
        ("head.other", np.zeros(30, np.float32), "is not a tensor of this model"),
    ],
)
def test_bad_tensors_are_not_written(tmp_path: Path, name: str, tensor: Any, fault: str) -> None:
    with pytest.raises(ModelFileError, match=fault) as caught:
        save_model(tmp_path / "m", SPEC, {**TENSORS, name: tensor})
    assert caught.value.tensor == name
    assert not (tmp_path / "m").exists()


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none", "cannot be read: No such file")


def test_oversized(path: Path) -> None:
    size = path.stat().st_size
    load_model(path, max_bytes=size)
    refused(path, f"oversized: {size} bytes, expected at most {size - 1}", max_bytes=size - 1)


def test_empty(path: Path) -> None:
    path.write_bytes(b"")
    refused(path, "truncated: 0 bytes hold no header length")


def test_truncated_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])
    refused(path, "truncated: the header has .* bytes, the file 92 more")


def test_truncated_tensors(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(path, "truncated: ends at .*, the file has").tensor


def test_bytes_behind_the_last_tensor(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"1234")
    refused(path, "4 bytes after the last tensor")


def test_header_too_long(path: Path) -> None:
    path.write_bytes(((1 << 63) + 5).to_bytes(8, "little") + path.read_bytes()[8:])
    refused(path, "header too long: 9223372036854775813 bytes")


@pytest.mark.parametrize(
    "text", [b"{nonsense}", b"[" * 90_000, b"\xff\xfe{}", b'{"a": ' + b"9" * 5_000 + b"}"]
)
def test_header_that_is_not_json(path: Path, text: bytes) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    refused(path, "the header is not JSON")


def test_header_that_is_no_object(path: Path) -> None:
    path.write_bytes(join([1], b""))
    refused(path, "the header is not a JSON object")


def test_tensor_named_twice(path: Path) -> None:
    text = b'{"a": 1, "a": 2}'
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    refused(path, "names a tensor or field twice")


def test_a_pickle_is_not_a_model(path: Path) -> None:
    path.write_bytes(pickle.dumps(TENSORS))
    refused(path, "header too long|truncated|not JSON")


def test_no_metadata(path: Path) -> None:
    path.write_bytes(safetensors.numpy.save(TENSORS))
    refused(path, "no metadata 'keepgate': not a Keepgate model file")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{}", "spec.format"),
        ("nonsense", "a JSON document"),
        (dump_spec(SPEC).replace('"lstm"', '"lstn"'), "spec.layers.0.cell: got 'lstn'"),
        (dump_spec(SPEC).replace('"hidden_size": 5', '"hidden_size": -5'), "layers.0.hidden_size: got -5"),
        (dump_spec(SPEC).replace('"hidden_size": 5', '"hidden_size": ' + "9" * 5_000), "not valid"),
        (dump_spec(SPEC).replace("random weights", "\\ud800"), "text that is not Unicode"),
        (dump_spec(SPEC).replace('"a"', '"\\ud800"'), "text that is not Unicode"),
    ],
)
def test_bad_spec(path: Path, text: str, fault: str) -> None:
    path.write_bytes(safetensors.numpy.save(TENSORS, metadata={METADATA_KEY: text}))
    refused(path, fault)


def test_missing_tensor(path: Path) -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "head.bias"}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={METADATA_KEY: dump_spec(SPEC)}))
    assert refused(path, "is missing").tensor == "head.bias"


def test_extra_tensor(path: Path) -> None:
    tensors = {**TENSORS, "optimizer.step": np.zeros(1, np.float32)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={METADATA_KEY: dump_spec(SPEC)}))
    assert refused(path, "is not a tensor of this model").tensor == "optimizer.step"


def test_mis_shaped(path: Path) -> None:
    tensors = {**TENSORS, "head.weight": np.ascontiguousarray(TENSORS["head.weight"].T)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={METADATA_KEY: dump_spec(SPEC)}))
    error = refused(path, r"mis-shaped: shape is \[5, 30\], expected \[30, 5\]")
    assert error.tensor == "head.weight"


@pytest.mark.parametrize(("dtype", "name"), [(np.float64, "F64"), (np.float16, "F16"), (np.int32, "I32")])
def test_wrong_dtype(path: Path, dtype: type, name: str) -> None:
    tensors = {**TENSORS, "head.bias": np.zeros(30, dtype)}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={METADATA_KEY: dump_spec(SPEC)}))
    assert refused(path, f"dtype is '{name}', expected 'F32'").tensor == "head.bias"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(path: Path, value: float) -> None:
    bias = TENSORS["head.bias"].copy()
    bias[3] = value
    tensors = {**TENSORS, "head.bias": bias}
    path.write_bytes(safetensors.numpy.save(tensors, metadata={METADATA_KEY: dump_spec(SPEC)}))
    assert refused(path, "1 weights are NaN or infinite").tensor == "head.bias"


def test_overlapping_tensors(path: Path) -> None:
    def change(header: dict[str, Any], payload: bytes) -> None:
        header["layers.0.bias_hh"]["data_offsets"] = header["layers.0.bias_ih"]["data_offsets"]

    edit(path, change)
    assert refused(path, "overlapping: begins at").tensor in ("layers.0.bias_hh", "layers.0.bias_ih")


def test_partly_overlapping_tensors(path: Path) -> None:
    def change(header: dict[str, Any], payload: bytes) -> None:
        offsets = header["layers.0.bias_ih"]["data_offsets"]
        header["layers.0.bias_ih"]["data_offsets"] = [offsets[0] - 4, offsets[1] - 4]

    edit(path, change)
    refused(path, "overlapping: begins at")


def test_hole_between_tensors(path: Path) -> None:
    def change(header: dict[str, Any], payload: bytes) -> bytes:
        for name, entry in header.items():
            if name != "__metadata__":
                entry["data_offsets"] = [offset + 8 for offset in entry["data_offsets"]]
        return bytes(8) + payload

    edit(path, change)
    refused(path, "hole: 8 bytes before it are no tensor")


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("data_offsets", [0, 1 << 70], "mis-sized"),
        ("data_offsets", [-120, 0], "expected .begin, end."),
        ("data_offsets", [120, 0], "expected .begin, end."),
        ("data_offsets", [0.0, 120.0], "expected .begin, end."),
        ("data_offsets", [0], "expected .begin, end."),
        ("data_offsets", None, "expected .begin, end."),
        ("shape", [1 << 40, 1 << 40], "mis-shaped"),
        ("shape", [30.0], "mis-shaped"),
        ("shape", None, "mis-shaped"),
        ("dtype", 7, "dtype is 7"),
    ],
)
def test_header_entries_that_lie(path: Path, field: str, value: Any, fault: str) -> None:
    edit(path, lambda header, _: header["head.bias"].update({field: value}))
    assert refused(path, fault).tensor == "head.bias"


def test_header_entry_that_is_no_object(path: Path) -> None:
    edit(path, lambda header, _: header.update({"head.bias": 3}))
    assert refused(path, "expected dtype, shape and data_offsets").tensor == "head.bias"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 1_200), value=st.integers(0, 255), cut=st.none() | st.integers(0, 5_000))
def test_any_damage_is_refused_or_harmless(path: Path, position: int, value: int, cut: int | None) -> None:
    good = path.read_bytes()
    data = bytearray(good[:cut] if cut is not None else good)
    if position < len(data):
        data[position] = value
    damaged = path.with_name("damaged")
    damaged.write_bytes(data)
    try:
        file = load_model(damaged, max_bytes=1 << 20)
    except ModelFileError:
        return
    assert len(data) == len(good)
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == file.spec.tensors()
    assert all(np.isfinite(tensor).all() for tensor in file.tensors.values())
