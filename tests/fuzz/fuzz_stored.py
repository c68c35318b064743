"""Fuzz what comes back from outside: exported sessions and a store's items. Damage is a ValueError, no other.

What is taken must be whole: it can be gone through, rewound, forked and told to a store again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["keepgate"]):
    from keepgate.request import NO_OPTIONS, Kind, Options, Wants
    from keepgate.sessions import blob
    from keepgate.sessions.durability import Durability
    from keepgate.sessions.history import History
    from keepgate.sessions.keeping import Meta
    from keepgate.sessions.records import Codec
    from keepgate.sessions.segments import POSITION, RECORDS, STATE
    from keepgate.sessions.session import ModelKey

from fuzz.campaign import Campaign, FoundError
from fuzz.dice import Dice
from fuzz.known import forged, odd_value
from keepgate_kernels import ModelSpec, Sampling
from keepgate_kernels.spec import TokenInput
from numpy.typing import NDArray
from support.random_models import feature_spec, random_inputs, token_spec

SPECS = (token_spec("lstm"), feature_spec("gru"))
RETENTION, INTERVAL = 16, 4
OPTIONS = (
    NO_OPTIONS,
    Options(Sampling(temperature=0.7, top_k=3, top_p=0.9, seed=2**64 - 1), Wants(3, True, True, True)),
    Options(more=b"more"),
)
META = Meta(ModelKey("letters", "1"), "ab" * 32, "avx2/fp32", Durability.ALWAYS, 60.0, 1.5e9)

Items = dict[bytes, bytes]


def make_blob(dice: Dice) -> bytes:
    spec = dice.pick(SPECS)
    state = np.array([dice.number() for _ in range(spec.state_bytes // 4)], "<f4").tobytes()
    header = blob.Header("letters", "1", "ab" * 32, "avx2/fp32", dice.integer(48), len(state))
    good = blob.pack(header, state)
    if dice.chance(10):
        return good
    return forged(good, dice) if dice.chance(75) else dice.damage(good)


def try_blob(dice: Dice) -> None:
    header, state = blob.unpack(make_blob(dice))
    header.model.encode()
    if len(state) != header.state_bytes or not 0 <= header.position <= blob.MOST_STEPS:
        raise FoundError(f"taken: {header} with {len(state)} bytes")
    if blob.unpack(blob.pack(header, state)) != (header, state):
        raise FoundError(f"{header} comes back as another")


def make_items(spec: ModelSpec, dice: Dice) -> Items:
    """What a store has of a session that was stepped, stored now and then, and perhaps rewound."""
    start = dice.below(3) * 1_000
    state = bytes(spec.state_bytes) if start else None
    history = History(Codec(spec), RETENTION, INTERVAL, start, state)
    items: Items = {}
    for _ in range(1 + dice.below(8)):
        inputs = random_inputs(spec, (1 + dice.below(6),), dice.below(5))
        history.append(Kind(dice.below(4)), inputs, dice.pick(OPTIONS))
        if history.wants_state(history.position):
            history.keep_state(bytes(spec.state_bytes))
        if dice.chance(10):
            history.rewind(history.oldest + dice.below(history.position - history.oldest + 1))
        if dice.chance(50):
            _store(history, items)
    _store(history, items)
    return items


def _store(history: History, items: Items) -> None:
    put, delete = history.untold()
    for key in delete:
        items.pop(key, None)
    items.update(put)


def _spoil(items: Items, dice: Dice) -> None:
    """One item more, less, elsewhere or damaged."""
    kind = dice.below(6)
    key = dice.pick(sorted(items) or [b"J"])
    value = items.get(key, b"")
    if kind == 0:
        items.pop(key, None)
    elif kind == 1:
        items[key] = dice.damage(value)
    elif kind == 2:
        items[key] = value[: dice.below(len(value) + 1)]
    elif kind == 3:
        items.pop(key, None)
        items[dice.damage(key)] = value
    elif kind == 4:
        items[dice.pick((STATE, RECORDS)) + POSITION.pack(dice.integer(64))] = value
    else:
        items[key] = value + dice.pick(sorted(items.values()) or [b""])


def try_history(dice: Dice) -> None:
    spec = dice.pick(SPECS)
    items = make_items(spec, dice)
    for _ in range(dice.below(4)):
        _spoil(items, dice)
    history = History.restore(items, Codec(spec), RETENTION, INTERVAL)
    if history.position - history.oldest > 10_000:
        raise FoundError(f"{history.oldest} to {history.position} of {sum(map(len, items.values()))} bytes")
    for position in range(history.oldest, history.position + 1):
        state, start, inputs = history.state_before(position)
        if state is not None and len(state) != spec.state_bytes:
            raise FoundError(f"a state of {len(state)} bytes, the model has {spec.state_bytes}")
        if start + (0 if inputs is None else len(inputs)) != position:
            raise FoundError(f"what leads to {position} ends elsewhere")
        if inputs is not None:
            _check_inputs(spec, inputs)
        for record in history.find(position):
            if not 1 < len(record.digest) <= 16:
                raise FoundError("a record without a digest")
    twin = history.fork()
    twin.rewind(twin.oldest + dice.below(twin.position - twin.oldest + 1))
    told: Items = {}
    _store(twin, told)
    again = History.restore(told, Codec(spec), RETENTION, INTERVAL)
    if told and (again.position, again.oldest) != (twin.position, twin.oldest):
        raise FoundError(f"{twin.oldest} to {twin.position} comes back as {again.oldest} to {again.position}")


def _check_inputs(spec: ModelSpec, inputs: NDArray[Any]) -> None:
    """The kernels take them as they are: what a store has must not make them read beyond a table."""
    if isinstance(spec.input, TokenInput) and inputs.max() >= spec.input.vocabulary_size:
        raise FoundError(f"token {inputs.max()} of a smaller vocabulary")


def try_meta(dice: Dice) -> None:
    packed = META.pack()
    if dice.chance(30):
        packed = dice.damage(packed)
    else:
        fields = json.loads(packed)
        fields[dice.pick(sorted(fields))] = odd_value(dice)
        packed = json.dumps(fields).encode()
    meta = Meta.unpack(packed)
    if not all(isinstance(part, str) for part in (*meta.model, meta.weights, meta.kernel)):
        raise FoundError(f"taken: {meta}")
    hash(meta)


TRIES: dict[str, Callable[[Dice], None]] = {
    "exported session": try_blob,
    "history": try_history,
    "description": try_meta,
}


def main() -> None:
    campaign = Campaign("stored", "tries", 200_000)

    def one(data: bytes) -> None:
        dice = Dice(data)
        name = dice.pick(sorted(TRIES))
        try:
            TRIES[name](dice)
        except ValueError:
            campaign.count(f"{name}: refused")
        else:
            campaign.count(f"{name}: taken")

    campaign.run(one)


if __name__ == "__main__":
    main()
