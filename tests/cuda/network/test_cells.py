"""Every cell, option, precision and shape against the float64 oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, CellKind, Lanes, Sampling, reference
from keepgate_kernels.cuda import packing
from keepgate_kernels.cuda.tiles import SHAPES, SMALL, Shape
from support.checks import WITH_CELL_STATE, check_exact, check_zeros
from support.cuda_runs import check, cuda_network
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec
from support.states import put

OPTIONS: list[dict[str, Any]] = [
    {"peepholes": True, "cell_clip": 0.25},
    {"projection": 5},
    {"peepholes": True, "projection": 19},
]


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


@pytest.mark.parametrize("shape", SHAPES[1:], ids=lambda shape: shape.name)
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
    check_exact(cuda_network, kind, precision, hidden=21, size=13, lanes=2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_of_zeros_and_an_output_without_weights(precision: str) -> None:
    check_zeros(cuda_network, precision)


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
