"""A model is one safetensors file whose metadata key "keepgate" holds the ModelSpec as JSON.

The layout (https://github.com/huggingface/safetensors): 8 bytes, the header's length N as
little-endian u64; N bytes of JSON, tensor name to {dtype, shape, data_offsets}; then the tensors'
bytes without holes.

Reading trusts nothing: the header is checked against the spec and against the file's real size, in
Python's exact integers, before any tensor is read. Files never hold code, and none is run.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy
from keepgate_kernels.spec import ModelSpec
from keepgate_kernels.spec_json import dump_spec, load_spec
from numpy.typing import NDArray
from safetensors import SafetensorError

from keepgate.errors import ModelFileError

METADATA_KEY = "keepgate"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20
"""A vocabulary of a million characters, the largest a spec may have, is about 9 MB of JSON."""
DEFAULT_MAX_BYTES = 512 << 20
ITEM_BYTES = 4
DTYPE = "F32"


class Stamp(NamedTuple):
    """What changes when a file does, without reading it."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """What a model file holds. tensors: canonical names and shapes of `spec.tensors()`, float32.

    stamp: the file's, from before it was read.
    """

    spec: ModelSpec
    tensors: dict[str, NDArray[np.float32]]
    file_bytes: int
    stamp: Stamp


def save_model(path: Path, spec: ModelSpec, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a model file, replacing an old one in one atomic rename.

    Raises ModelFileError if the tensors are not exactly those of `spec.tensors()`, float32, finite.
    """
    expected = spec.tensors()
    _check_names(path, set(tensors), expected)
    plain: dict[str, NDArray[np.float32]] = {}
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise ModelFileError(path, f"dtype is {tensor.dtype}, expected float32", name)
        if tensor.shape != shape:
            raise ModelFileError(path, f"shape is {tensor.shape}, expected {shape}", name)
        _check_finite(path, name, tensor)
        plain[name] = np.ascontiguousarray(tensor)  # the library writes strided memory as it lies
    data = safetensors.numpy.save(plain, metadata={METADATA_KEY: dump_spec(spec)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def load_model(path: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> LoadedFile:
    """Read and check a model file.

    Raises ModelFileError naming the fault, and the tensor where one is at fault.
    """
    try:
        with path.open("rb") as file:
            return _load(path, file, max_bytes)
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from error


def _load(path: Path, file: BinaryIO, max_bytes: int) -> LoadedFile:
    status = os.fstat(file.fileno())
    size = status.st_size
    if size > max_bytes:
        raise ModelFileError(path, f"oversized: {size} bytes, expected at most {max_bytes}")
    header_bytes = _read_header(path, file, size)
    header = _parse_header(path, header_bytes)
    spec = _spec(path, header)
    payload_bytes = size - LENGTH_BYTES - len(header_bytes)
    _check_tensors(path, header, spec.tensors(), payload_bytes)
    file.seek(0)
    data = file.read(size)
    if len(data) != size or data[LENGTH_BYTES : LENGTH_BYTES + len(header_bytes)] != header_bytes:
        raise ModelFileError(path, "changed while it was read")
    try:
        tensors = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise ModelFileError(path, f"not a safetensors file: {error}") from error
    for name, tensor in tensors.items():
        _check_finite(path, name, tensor)
    return LoadedFile(spec, tensors, size, Stamp.of(status))


def _read_header(path: Path, file: BinaryIO, size: int) -> bytes:
    if size < LENGTH_BYTES:
        raise ModelFileError(path, f"truncated: {size} bytes hold no header length")
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise ModelFileError(path, f"header too long: {length} bytes, expected at most {MAX_HEADER_BYTES}")
    if length > size - LENGTH_BYTES:
        raise ModelFileError(
            path, f"truncated: the header has {length} bytes, the file {size - LENGTH_BYTES} more"
        )
    return file.read(length)


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ModelFileError(path, "the header names a tensor or field twice")
        return fields

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(path, f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelFileError(path, "the header is not a JSON object")
    return header


def _spec(path: Path, header: dict[str, Any]) -> ModelSpec:
    """Take the metadata out of the header and the spec out of the metadata."""
    metadata = header.pop("__metadata__", None)
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelFileError(path, f"no metadata {METADATA_KEY!r}: not a Keepgate model file")
    try:
        spec = load_spec(text)
        words = [spec.description, spec.source, spec.licence]
        "".join([*words, *(spec.tokenizer.vocabulary if spec.tokenizer else ())]).encode("utf-8")
    except UnicodeEncodeError as error:
        # JSON can spell lone surrogates; protocol buffers cannot carry them.
        raise ModelFileError(path, f"its spec has text that is not Unicode: {error}") from error
    except ValueError as error:  # SpecError, or an integer too long to parse
        raise ModelFileError(path, f"its spec is not valid: {error}") from error
    return spec


def _check_names(path: Path, found: set[str], expected: Mapping[str, object]) -> None:
    for name in sorted(expected.keys() - found):
        raise ModelFileError(path, "is missing", name)
    for name in sorted(found - expected.keys()):
        raise ModelFileError(path, "is not a tensor of this model", name)


def _check_tensors(
    path: Path,
    header: dict[str, Any],
    expected: Mapping[str, tuple[int, ...]],
    payload_bytes: int,
) -> None:
    """Names, types, shapes and places of all tensors, against the spec and the file's real size."""
    _check_names(path, set(header), expected)
    places = sorted((*_place(path, name, header[name], shape), name) for name, shape in expected.items())
    for (_, end, _), (begin, _, name) in pairwise(places):
        if begin < end:
            raise ModelFileError(path, f"overlapping: begins at {begin}, before {end}", name)
    end = 0
    for begin, next_end, name in places:
        if begin > end:
            raise ModelFileError(path, f"hole: {begin - end} bytes before it are no tensor", name)
        if next_end > payload_bytes:
            raise ModelFileError(
                path, f"truncated: ends at {next_end}, the file has {payload_bytes} bytes", name
            )
        end = next_end
    if end != payload_bytes:
        raise ModelFileError(path, f"{payload_bytes - end} bytes after the last tensor")


def _place(path: Path, name: str, entry: object, shape: tuple[int, ...]) -> tuple[int, int]:
    """Check one header entry by itself; its begin and end in the payload."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(path, "expected dtype, shape and data_offsets in the header", name)
    if entry["dtype"] != DTYPE:
        raise ModelFileError(path, f"dtype is {entry['dtype']!r:.40}, expected {DTYPE!r}", name)
    if entry["shape"] != list(shape) or not _integers(entry["shape"]):
        raise ModelFileError(
            path, f"mis-shaped: shape is {entry['shape']!r:.80}, expected {list(shape)}", name
        )
    offsets = entry["data_offsets"]
    if not _integers(offsets) or len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1]:
        raise ModelFileError(path, f"data_offsets are {offsets!r:.80}, expected [begin, end]", name)
    wanted = math.prod(shape) * ITEM_BYTES
    if offsets[1] - offsets[0] != wanted:
        raise ModelFileError(path, f"mis-sized: {offsets[1] - offsets[0]} bytes, expected {wanted}", name)
    return offsets[0], offsets[1]


def _integers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _check_finite(path: Path, name: str, tensor: NDArray[np.float32]) -> None:
    if not np.isfinite(tensor).all():
        count = int(np.count_nonzero(~np.isfinite(tensor)))
        raise ModelFileError(path, f"{count} weights are NaN or infinite", name)
