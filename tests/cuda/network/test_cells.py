"""Every cell, option, precision and shape against the float64 oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, CellKind, Lanes, Sampling, reference
from keepgate_kernels.cuda import packing
from keepgate_kernels.cuda.tiles import LARGE, MEDIUM, SMALL, Shape
from support.cuda_runs import check, cuda_network
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec
from support.rounding import exact_numbers, rounded
from support.states import get, put

WITH_CELL_STATE = (CellKind.LSTM, CellKind.CIFG)
OPTIONS: list[dict[str, Any]] = [
    {"peepholes": True, "cell_clip": 0.25},
    {"projection": 5},
    {"peepholes": True, "projection": 19},
]
CLOSE = 5e-6


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
def test_tokens_through_two_layers(kind: CellKind, precision: str) -> None:
    spec = token_spec(kind, hidden=(17, 9))
    check(spec, random_inputs(spec, (2, 2)), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
def test_features(kind: CellKind, precision: str) -> None:
    spec = feature_spec(kind, size=5, hidden=(11,), outputs=3)
    check(spec, random_inputs(spec, (3, 2)), precision, steps=1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=["peepholes and clip", "projection", "both widths"])
@pytest.mark.parametrize("kind", WITH_CELL_STATE)
def test_options(kind: CellKind, options: dict[str, Any], precision: str) -> None:
    spec = feature_spec(kind, hidden=(13, 7), **options)
    check(spec, random_inputs(spec, (2, 2)), precision)


@pytest.mark.parametrize("hidden", [1, 7, 8, 33])
def test_sizes_around_blocks(hidden: int) -> None:
    spec = token_spec("gru", hidden=(hidden,))
    check(spec, random_inputs(spec, (1, 2)), "fp32")


@pytest.mark.parametrize(
    ("precision", "size", "hidden"),
    [("fp32", 3, 65), ("fp32", 64, 9), ("bf16", 129, 9), ("bf16", 3, 129), ("int8", 257, 9)],
)
def test_sizes_around_quarters(precision: str, size: int, hidden: int) -> None:
    """More than one chunk a quarter: the copies that are ahead, and quarters that are padded."""
    spec = feature_spec("rnn_tanh", size=size, hidden=(hidden,))
    check(spec, random_inputs(spec, (1, 1)), precision)


@pytest.mark.parametrize("shape", [MEDIUM, LARGE], ids=lambda shape: shape.name)
@pytest.mark.parametrize(
    ("kind", "precision"), [("lstm", "bf16"), ("gru", "fp32"), ("cifg", "int8"), ("rnn_relu", "int8")]
)
def test_larger_shapes(kind: str, precision: str, shape: Shape) -> None:
    spec = feature_spec(kind, size=3, hidden=(20,))
    check(spec, random_inputs(spec, (3, 1)), precision, shape=shape)


def test_more_rows_than_a_thread_block_has() -> None:
    spec = feature_spec("lstm", hidden=(9,))
    check(spec, random_inputs(spec, (18, 1)), "fp32", shape=SMALL)


@pytest.mark.parametrize("kind", CellKind)
def test_embedding_too_large_to_fold(kind: CellKind, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = token_spec(kind, hidden=(9,))
    assert packing.folds(spec)
    monkeypatch.setattr(packing, "MAX_TABLE_BYTES", 0)
    assert not packing.folds(spec)
    check(spec, random_inputs(spec, (2, 2)), "fp32")


def test_lanes_of_different_lengths() -> None:
    spec = token_spec("gru", hidden=(9,))
    tensors = random_tensors(spec)
    network = cuda_network(spec, tensors, slots=5)
    lanes = Lanes(spec)
    sequences = [random_inputs(spec, (1 + (3 * index) % 4,), index) for index in range(5)]
    for index, sequence in enumerate(sequences):
        slot = network.slots.allocate()
        assert slot is not None
        lanes.add(
            slot,
            sequence,
            position=len(sequence),
            sampling=Sampling(),
            predict=index != 2,
            score=index in (1, 2),
            logits=index != 2,
        )
    network.step(lanes)
    for lane, sequence in enumerate(sequences):
        values, ((h, _),) = reference.run(spec, tensors, sequence)
        np.testing.assert_allclose(network.hidden(lane)[0], h, atol=1e-5)
        if lane != 2:
            np.testing.assert_allclose(lanes.logits(lane), values[-1], atol=1e-5)
        if lane in (1, 2):
            expected = reference.score(spec, tensors, sequence)
            np.testing.assert_allclose(lanes.scores(lane)[1:], expected, atol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [kind for kind in CellKind if kind is not CellKind.GRU_RESET_BEFORE])
def test_a_step_from_exact_numbers(kind: CellKind, precision: str) -> None:
    """From inputs and states that the precision holds, only float32 is rounded: as close as fp32 is."""
    spec = feature_spec(kind, size=13, hidden=(21,))
    tensors = random_tensors(spec, 3)
    seen = rounded(spec, tensors, precision)
    network = cuda_network(spec, tensors, slots=2, precision=precision)
    inputs, states = exact_numbers((2, 13), precision, 1), exact_numbers((2, 21), precision, 2)
    cells = np.random.default_rng(3).standard_normal((2, 21 if kind in WITH_CELL_STATE else 0))
    lanes = Lanes(spec)
    for lane in range(2):
        slot = network.slots.allocate()
        assert slot == lane
        put(network.slots, slot, [(states[lane], cells[lane])])
        lanes.add(slot, inputs[lane][None], position=1, sampling=Sampling())
    network.step(lanes)
    for lane in range(2):
        c32 = cells[lane].astype(np.float32).astype(np.float64)
        _, ((h, c),) = reference.step(spec, seen, [(states[lane].astype(np.float64), c32)], inputs[lane])
        found_h, found_c = get(spec, network.slots, lane)[0]
        np.testing.assert_allclose(found_h, h, atol=CLOSE, rtol=CLOSE)
        np.testing.assert_allclose(found_c, c, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_of_zeros_and_an_output_without_weights(precision: str) -> None:
    """Scales of zero must not become divisions by zero."""
    spec = feature_spec(CellKind.GRU, hidden=(5,))
    tensors = random_tensors(spec)
    tensors["layers.0.weight_ih"][2] = 0.0
    tensors["head.weight"][:] = 0.0
    network = cuda_network(spec, tensors, slots=1, precision=precision)
    lanes = Lanes(spec)
    lanes.add(network.slots.allocate() or 0, np.zeros((1, 3), np.float32), position=1, sampling=Sampling())
    network.step(lanes)
    np.testing.assert_array_equal(lanes.outputs(0), tensors["head.bias"])
    _, ((h, _),) = reference.run(spec, tensors, np.zeros((1, 3)))
    np.testing.assert_allclose(network.hidden(0)[0], h, atol=CLOSE)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("place", ["head", "state"])
def test_numbers_that_are_not_finite_are_found(place: str, precision: str) -> None:
    """In one lane, and only there; the flag is not left for the next tick."""
    spec = token_spec("rnn_relu", hidden=(9,))
    tensors = random_tensors(spec)
    if place == "head":
        tensors["head.weight"][3] = 3e38
    else:
        tensors["layers.0.weight_hh"][:] = 3e38
    network, lanes = cuda_network(spec, tensors, slots=3, precision=precision), Lanes(spec)
    for slot in range(3):
        network.slots.allocate()
        put(network.slots, slot, [(np.full(9, 100.0 if slot == 1 else 0.0), [])])
        lanes.add(slot, np.zeros(1, np.uint32), position=1, sampling=Sampling(), predict=place == "head")
    network.step(lanes)
    assert [lanes.is_finite(lane) for lane in range(3)] == [True, False, True]
    lanes.clear()
    put(network.slots, 1, [(np.zeros(9), [])])
    lanes.add(1, np.zeros(1, np.uint32), position=1, sampling=Sampling(), predict=False)
    network.step(lanes)
    assert lanes.is_finite(0)
