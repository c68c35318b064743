"""bf16 and int8 against the oracle with weights rounded as the kernels round them.

A step from states and inputs that the precision holds exactly must match the oracle as closely as fp32 does.
Where a kernel rounds numbers of its own making (a second product, a second layer, the head) a difference in
the last bit may become a whole level, so those are compared more loosely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keepgate_kernels import (
    PRECISIONS,
    CellKind,
    Lanes,
    Network,
    Sampling,
    packed_bytes,
    reference,
)
from support.checks import LOOSE, WITH_CELL_STATE, check_exact, check_zeros
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec
from support.rounding import rounded

REDUCED = ("bf16", "int8")


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([kind for kind in CellKind if kind is not CellKind.GRU_RESET_BEFORE]),
    precision=st.sampled_from(PRECISIONS),
    hidden=st.integers(1, 70),
    size=st.integers(1, 40),
    lanes=st.integers(1, 9),
    options=st.sampled_from([{}, {"peepholes": True}, {"cell_clip": 0.25}]),
    seed=st.integers(0, 999),
)
def test_a_step_from_exact_numbers(
    kind: CellKind, precision: str, hidden: int, size: int, lanes: int, options: dict[str, Any], seed: int
) -> None:
    check_exact(Network, kind, precision, hidden=hidden, size=size, lanes=lanes, options=options, seed=seed)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(CellKind),
    precision=st.sampled_from(REDUCED),
    hidden=st.lists(st.integers(1, 50), min_size=1, max_size=3),
    tokens=st.booleans(),
    projection=st.sampled_from([0, 0, 5, 19]),
    seed=st.integers(0, 999),
)
def test_several_steps_of_several_layers(
    kind: CellKind, precision: str, hidden: list[int], tokens: bool, projection: int, seed: int
) -> None:
    make = token_spec if tokens else feature_spec
    options: dict[str, Any] = {"projection": projection} if kind in WITH_CELL_STATE else {}
    spec = make(kind, hidden=tuple(hidden), **options)
    tensors = random_tensors(spec, seed)
    seen = rounded(spec, tensors, precision)
    network = Network(spec, tensors, slots=4, precision=precision)
    batch = Lanes(spec)
    inputs = random_inputs(spec, (4, 3), seed)
    for lane in range(4):
        slot = network.slots.allocate()
        assert slot is not None
        batch.add(slot, inputs[lane], position=3, sampling=Sampling(), logits=tokens, score=tokens)
    network.step(batch)
    for lane in range(4):
        values, state = reference.run(spec, seen, inputs[lane])
        got = batch.logits(lane) if tokens else batch.outputs(lane)
        scale = max(1.0, np.abs(values[-1]).max())
        np.testing.assert_allclose(got, values[-1], atol=LOOSE[precision] * scale)
        for found, (h, _) in zip(network.hidden(lane), state, strict=True):
            np.testing.assert_allclose(found, h, atol=LOOSE[precision] * max(1.0, np.abs(h).max()))
        if tokens:
            expected = reference.score(spec, seen, inputs[lane])
            np.testing.assert_allclose(batch.scores(lane)[1:], expected, atol=4 * LOOSE[precision])


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(CellKind),
    precision=st.sampled_from(PRECISIONS),
    hidden=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    tokens=st.booleans(),
    options=st.sampled_from([{}, {"peepholes": True}, {"cell_clip": 0.25}, {"projection": 7}]),
)
def test_packed_bytes_is_what_a_network_holds(
    kind: CellKind, precision: str, hidden: list[int], tokens: bool, options: dict[str, Any]
) -> None:
    make = token_spec if tokens else feature_spec
    spec = make(kind, hidden=tuple(hidden), **(options if kind in WITH_CELL_STATE else {}))
    network = Network(spec, random_tensors(spec), slots=1, precision=precision)
    assert packed_bytes(spec, precision) == network.weight_bytes


def test_a_precision_is_a_part_of_the_size() -> None:
    spec = feature_spec(CellKind.LSTM, size=256, hidden=(256,), outputs=256)
    sizes = [packed_bytes(spec, precision) for precision in PRECISIONS]
    assert sizes[0] == pytest.approx(4 * spec.parameters, rel=0.01)
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.01)
    assert sizes[2] == pytest.approx(sizes[0] / 4, rel=0.05)


def test_an_unknown_precision_is_refused() -> None:
    spec = token_spec()
    text = "precision: got 'int4', expected one of fp32, bf16, int8"
    with pytest.raises(ValueError, match=text):
        Network(spec, random_tensors(spec), slots=1, precision="int4")
    with pytest.raises(ValueError, match=text):
        packed_bytes(spec, "int4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_of_zeros_and_an_output_without_weights(precision: str) -> None:
    check_zeros(Network, precision)
