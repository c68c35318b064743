"""Fuzz the reading of model files: whatever a file holds, it is a model, or refused with ModelFileError.

Each input makes a file of a good model with its header, spec or bytes changed, and reads it as the server
does, kernels' layouts included. A model that is taken must be what its file says, and step.
"""

from __future__ import annotations

import copy
import json
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["keepgate"]):
    from keepgate.errors import ModelFileError
    from keepgate.models.format import METADATA_KEY
    from keepgate.models.registry import read_model
    from keepgate.sessions.session import ModelKey

import safetensors.numpy
from fuzz.campaign import Campaign, FoundError
from fuzz.dice import Dice
from fuzz.known import odd_value
from keepgate_kernels import PRECISIONS, CellKind, ModelSpec
from keepgate_kernels.spec_json import dump_spec
from support.random_models import feature_spec, random_tensors, token_spec
from support.repositories import characters_spec

MAX_BYTES = 1 << 16
KEY = ModelKey("fuzzed", "1")
METADATA = "__metadata__"
LENGTH = struct.Struct("<Q")

Header = dict[str, Any]


def good_files() -> list[tuple[Header, bytes]]:
    """Header and payload of small models of every kind."""
    specs = [token_spec(kind, hidden=(5, 3)) for kind in CellKind]
    specs += [
        feature_spec("lstm", peepholes=True, projection=3, cell_clip=2.0),
        characters_spec("gru", hidden=(4,)),
    ]
    return [_parts(spec) for spec in specs]


def _parts(spec: ModelSpec) -> tuple[Header, bytes]:
    data = safetensors.numpy.save(dict(random_tensors(spec)), metadata={METADATA_KEY: dump_spec(spec)})
    (size,) = LENGTH.unpack_from(data)
    begin = LENGTH.size + size
    return json.loads(data[LENGTH.size : begin]), data[begin:]


def damaged(dice: Dice, files: list[tuple[Header, bytes]]) -> bytes:
    """A file with one to three things wrong, or none that matters."""
    good, payload = dice.pick(files)
    header = copy.deepcopy(good)
    changes: list[Callable[[Dice, Header, bytes], bytes]] = [_tensor, _spec, _spec, _names, _payload]
    for _ in range(1 + dice.below(3)):
        payload = dice.pick(changes)(dice, header, payload)
    text = json.dumps(header).encode()
    if dice.chance(15):
        text = dice.damage(text)
    size = dice.integer(64) if dice.chance(3) else len(text)
    data = LENGTH.pack(size) + text + payload
    if dice.chance(10):
        data = data[: dice.below(len(data) + 1)]
    return dice.damage(data) if dice.chance(10) else data


def _tensor(dice: Dice, header: Header, payload: bytes) -> bytes:
    """Another type, shape or place of one tensor."""
    names = [name for name in header if name != METADATA]
    if not names or not isinstance(entry := header[dice.pick(names)], dict) or not entry:
        return payload
    field = dice.pick(sorted(entry))
    values = entry[field]
    if isinstance(values, list) and values and dice.chance(70):
        index = dice.below(len(values))
        if isinstance(values[index], int) and dice.chance(50):
            values[index] += dice.below(17) - 8
        else:
            values[index] = _value(dice)
    elif field == "dtype" and dice.chance(80):
        entry[field] = dice.pick(("F32", "F16", "BF16", "F64", "I8", "U64", "BOOL", "f32", "F8_E4M3"))
    else:
        entry[field] = _value(dice)
    if dice.chance(5):
        entry.pop(field)
    return payload


def _spec(dice: Dice, header: Header, payload: bytes) -> bytes:
    """Another value of one field of the spec, however deep."""
    metadata: Any = header.get(METADATA)
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str) or dice.chance(3):
        header[METADATA] = dice.pick((None, {}, {METADATA_KEY: _value(dice)}, []))
        return payload
    if dice.chance(10):
        metadata[METADATA_KEY] = dice.damage(text.encode("utf-8", "replace")).decode("utf-8", "replace")
        return payload
    try:
        spec = json.loads(text)
    except ValueError:
        return payload
    if isinstance(spec, dict | list):
        _change(dice, spec)
    metadata[METADATA_KEY] = json.dumps(spec)
    return payload


def _change(dice: Dice, node: Any) -> None:
    """Change, remove or double one part of a document in place."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = dice.pick(keys)
        if not isinstance(node[key], dict | list) or not node[key] or dice.chance(10):
            break
        node = node[key]
    kind = dice.below(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]))
    elif kind == 2 and isinstance(node[key], int):
        node[key] += dice.below(9) - 4
    elif kind == 3 and key == "cell":
        node[key] = dice.pick(list(CellKind)).value
    else:
        node[key] = _value(dice)


def _names(dice: Dice, header: Header, payload: bytes) -> bytes:
    """A tensor more, less, or by another name."""
    name = dice.pick(list(header) or [""])
    entry = header.pop(name, {})
    if dice.chance(70):
        header[dice.pick((name + "x", "embedding.weight", "layers.99.bias_ih", "", dice.text()))] = entry
    return payload


def _payload(dice: Dice, header: Header, payload: bytes) -> bytes:
    """Longer, shorter, or with weights that are no numbers."""
    kind = dice.below(3)
    if kind == 0:
        return payload + dice.some_bytes(64)
    if kind == 1:
        return payload[: dice.below(len(payload) + 1)]
    at = 4 * dice.below(len(payload) // 4 or 1)
    weight = struct.pack("<f", dice.pick((float("nan"), float("inf"), 3e38, -3e38, 1e-45, 0.0)))
    return payload[:at] + weight + payload[at + 4 :]


def _value(dice: Dice) -> Any:
    return dice.pick((0, 1, -1, 2**31, 2**63, 65_536, 1 << 20)) if dice.chance(40) else odd_value(dice)


def main() -> None:
    campaign = Campaign("model_file", "files", 100_000)
    files = good_files()
    with tempfile.TemporaryDirectory(prefix="keepgate-model-") as folder:
        path = Path(folder) / "model.safetensors"

        def one(data: bytes) -> None:
            dice = Dice(data)
            path.write_bytes(damaged(dice, files))
            precision = dice.pick(PRECISIONS)
            try:
                model = read_model(path, KEY, max_bytes=MAX_BYTES, slots=2, precision=precision)
            except ModelFileError as error:
                campaign.count(_kind_of(error))
                return
            if model.spec.parameters * 4 > MAX_BYTES or model.network.slots.free != 2:
                raise FoundError(
                    f"a model of {model.spec.parameters} parameters in a file of {path.stat().st_size} bytes"
                )
            model.network.compile()
            campaign.count("taken")

        campaign.run(one)


def _kind_of(error: ModelFileError) -> str:
    """The fault without its particulars."""
    return "refused: " + " ".join(re.findall("[A-Za-z-]+", error.fault)[:2])


if __name__ == "__main__":
    main()
