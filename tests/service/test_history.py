"""A session's history: what it gives back and what it tells a store, against the plain list of what was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from keepgate.request import NO_OPTIONS, Kind, Options, Wants
from keepgate.sessions.durability import Durability
from keepgate.sessions.history import History
from keepgate.sessions.keeping import Meta
from keepgate.sessions.records import Codec
from keepgate.sessions.session import ModelKey
from keepgate_kernels import Sampling
from numpy.typing import NDArray
from support.random_models import feature_spec, token_spec

TOKENS = Codec(token_spec(vocabulary=1_000))
FEATURES = Codec(feature_spec())
OPTIONS = [
    NO_OPTIONS,
    Options(Sampling(temperature=0.5, top_k=3, top_p=0.9, seed=2**63), Wants(2, True, False, True)),
    Options(more=b"\x01\x02\x03"),
]
FEATURE_OPTIONS = [NO_OPTIONS, Options(wants=Wants(hidden=True, state=True)), Options(more=b"\x01")]
Step = tuple[Kind, int, Options]


def state_at(position: int) -> bytes:
    """A state that says where it was taken; of zeros, None stands for the one at 0."""
    return position.to_bytes(TOKENS.state_bytes, "little")


def applied(inputs: list[int]) -> NDArray[np.uint32]:
    return np.array(inputs, np.uint32)


class Life(RuleBasedStateMachine):
    """One session through steps, snapshots, rewinds, forks and restarts, its store a dict."""

    @initialize(retention=st.integers(0, 12), interval=st.integers(1, 8))
    def begin(self, retention: int, interval: int) -> None:
        self.limits = retention, interval
        self.history = History(TOKENS, retention, interval)
        self.inputs: list[int] = []
        self.requests: dict[int, tuple[Kind, list[int], Options]] = {}
        self.store: dict[bytes, bytes] = {}
        self.reached = self.rewound_to = 0

    @rule(
        kind=st.sampled_from([Kind.STEP, Kind.SCORE]),
        count=st.integers(1, 5),
        options=st.sampled_from(OPTIONS),
    )
    def apply(self, kind: Kind, count: int, options: Options) -> None:
        begin = len(self.inputs)
        inputs = list(range(begin, begin + count))
        keep = self.history.wants_state(begin + count)
        self.history.append(kind, applied(inputs), options)
        self.inputs += inputs
        self.requests[begin] = kind, inputs, options
        if keep:
            self.history.keep_state(state_at(begin + count))

    @rule(feeds=st.integers(0, 3), options=st.sampled_from(OPTIONS))
    def generate(self, feeds: int, options: Options) -> None:
        begin = len(self.inputs)
        self.history.append(Kind.GENERATE, applied([begin, begin + 1]), options)
        for index in range(feeds):
            self.history.append(Kind.FEED, applied([begin + 2 + index]), options)
        inputs = list(range(begin, begin + 2 + feeds))
        self.inputs += inputs
        self.requests[begin] = Kind.GENERATE, inputs, options

    @rule()
    def page_out(self) -> None:
        self.history.keep_state(state_at(len(self.inputs)))

    @rule()
    def write(self) -> None:
        put, delete = self.history.untold()
        for key in delete:
            self.store.pop(key, None)
        self.store.update(put)

    @rule()
    def restart(self) -> None:
        self.write()
        self.history = History.restore(self.store, TOKENS, *self.limits)

    @rule(data=st.data(), goes_on_as_twin=st.booleans())
    def fork(self, data: st.DataObject, goes_on_as_twin: bool) -> None:
        """Whatever the other one does, the one that is kept knows nothing of it."""
        other = self.history.fork()
        if goes_on_as_twin:
            self.history, other, self.store = other, self.history, {}
        other.rewind(data.draw(st.integers(other.oldest, other.position)))
        for _ in range(data.draw(st.integers(0, 3))):
            other.append(Kind.STEP, applied([99] * 3), NO_OPTIONS)
            other.keep_state(state_at(99))
        other.untold()

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(self.history.oldest, self.history.position))
        self.history.rewind(position)
        del self.inputs[position:]
        kept = {}
        for begin, (kind, inputs, options) in self.requests.items():
            if begin + len(inputs) <= position:
                kept[begin] = kind, inputs, options
            elif begin < position and kind is Kind.GENERATE and begin + 2 <= position:
                kept[begin] = kind, inputs[: position - begin], options
        self.requests = kept
        self.rewound_to = position

    @invariant()
    def is_where_it_should_be(self) -> None:
        if hasattr(self, "history"):
            assert self.history.position == len(self.inputs)

    @invariant()
    def every_retained_state_can_be_made(self) -> None:
        if not hasattr(self, "history"):
            return
        self.reached = max(self.reached, len(self.inputs))
        assert self.history.oldest <= max(0, self.reached - self.limits[0])
        for position in range(self.history.oldest, len(self.inputs) + 1):
            state, start, inputs = self.history.state_before(position)
            assert (state is None and start == 0) or state == state_at(start)
            assert start <= position
            made = [] if inputs is None else inputs.tolist()
            assert made == self.inputs[start:position]

    @invariant()
    def every_retained_request_is_found(self) -> None:
        if not hasattr(self, "history"):
            return
        for begin, (kind, inputs, options) in self.requests.items():
            found = self.history.find(begin)
            if begin < self.history.oldest:
                assert not found
                continue
            assert found
            assert found[0].kind is kind
            assert found[0].options == options
            assert [token for record in found for token in record.inputs.tolist()] == inputs

    @precondition(lambda self: bool(self.requests))
    @rule()
    def the_last_request_is_retained(self) -> None:
        last = max(self.requests)
        _, inputs, _ = self.requests[last]
        if last + len(inputs) == len(self.inputs) > self.rewound_to:
            assert self.history.find(last)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


@given(
    st.lists(
        st.tuples(st.sampled_from(Kind), st.integers(1, 4), st.sampled_from(FEATURE_OPTIONS)), max_size=8
    )
)
@settings(deadline=None)
def test_records_come_back(steps: list[Step]) -> None:
    run, expected, start = b"", [], 7
    before: Options | None = None
    size = feature_spec().input_size
    for kind, count, options in steps:
        inputs: NDArray[Any] = np.arange(count * size, dtype=np.float32).reshape(count, size)
        run += FEATURES.encode(kind, inputs, None if options == before else options)
        expected.append((start, kind, inputs.tolist(), options))
        before = options
        start += count
    found = [(r.start, r.kind, r.inputs.tolist(), r.options) for r in FEATURES.decode(7, run)]
    assert found == expected


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_damaged_run_is_told(cut: int) -> None:
    run = TOKENS.encode(Kind.STEP, applied([1, 2, 3]), OPTIONS[1]) * 2
    if len(run) % 2 or cut != len(run) // 2:
        with pytest.raises(ValueError, match="damaged"):
            list(TOKENS.decode(0, run[:cut]))


def test_a_gap_is_told() -> None:
    history = History(TOKENS, 4, 100)
    items: dict[bytes, bytes] = {}
    for token in range(3):
        history.append(Kind.STEP, applied([token]), NO_OPTIONS)
        items.update(history.untold()[0])
    del items[sorted(items)[1]]
    with pytest.raises(ValueError, match="lacks what came between 1 and 2"):
        History.restore(items, TOKENS, 4, 100)


@pytest.mark.parametrize(
    ("codec", "inputs", "options"),
    [
        (TOKENS, np.array([1, 1_000], np.uint32), NO_OPTIONS),
        (TOKENS, np.array([1], np.uint32), Options(wants=Wants(top_k=1_001))),
        (FEATURES, np.array([[1, 2, np.nan]], np.float32), NO_OPTIONS),
        (FEATURES, np.array([[1, 2, 3]], np.float32), Options(wants=Wants(top_k=1))),
        (FEATURES, np.array([[1, 2, 3]], np.float32), Options(wants=Wants(logits=True))),
    ],
)
def test_a_record_that_the_kernels_cannot_take_is_damaged(
    codec: Codec, inputs: NDArray[Any], options: Options
) -> None:
    """They look up what they are given: a token beyond the vocabulary is memory beyond a table."""
    run = codec.encode(Kind.STEP, inputs, options)
    with pytest.raises(ValueError, match="position 7 is damaged"):
        list(codec.decode(7, run))


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        (b"S" + bytes(7) + b"\x04", bytes(60), "a state of 60 bytes at 4, expected 64"),
        (b"S" + bytes(9), bytes(64), "a key of 10 bytes"),
        (b"J", b"", "a key of 1 bytes"),
    ],
)
def test_a_damaged_item_is_told(key: bytes, value: bytes, fault: str) -> None:
    history = History(TOKENS, 16, 4)
    history.append(Kind.STEP, applied([1, 2, 3, 4]), NO_OPTIONS)
    items = dict(history.untold()[0])
    with pytest.raises(ValueError, match=fault):
        History.restore({**items, key: value}, TOKENS, 16, 4)


GOOD = Meta(ModelKey("letters", "1"), "ab", "avx2/fp32", Durability.ALWAYS, 60.0, 1.5e9)


def test_a_description_comes_back() -> None:
    assert Meta.unpack(GOOD.pack()) == GOOD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ["letters"]),
        ("version", 1),
        ("weights", None),
        ("kernel", "\udfff"),
        ("durability", "sometimes"),
        ("ttl", 10**400),
        ("ttl", float("nan")),
        ("ttl", 0),
        ("created", float("inf")),
    ],
)
def test_a_damaged_description_is_told(field: str, value: Any) -> None:
    fields = {**json.loads(GOOD.pack()), field: value}
    with pytest.raises(ValueError, match="description of a stored session is damaged"):
        Meta.unpack(json.dumps(fields).encode())
