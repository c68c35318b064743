"""What a network must compute in every precision, on either device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keepgate_kernels import CellKind, Lanes, Network, Sampling, reference

from support.random_models import feature_spec, random_tensors
from support.rounding import exact_numbers, rounded
from support.states import get, put

CLOSE = 5e-6
LOOSE = {"fp32": 2e-5, "bf16": 0.03, "int8": 0.08}
WITH_CELL_STATE = (CellKind.LSTM, CellKind.CIFG)

Maker = Callable[..., Network]
"""Called as Network is."""


def check_exact(
    make: Maker,
    kind: CellKind,
    precision: str,
    *,
    hidden: int,
    size: int,
    lanes: int,
    options: dict[str, Any] | None = None,
    seed: int = 3,
) -> None:
    """A step from inputs and states that the precision holds: only float32 is rounded.

    So the state is as close as fp32 is; the head's output is not, since the new state is rounded for it.
    """
    has_cell = kind in WITH_CELL_STATE
    spec = feature_spec(kind, size=size, hidden=(hidden,), **((options or {}) if has_cell else {}))
    tensors = random_tensors(spec, seed)
    seen = rounded(spec, tensors, precision)
    network = make(spec, tensors, slots=lanes, precision=precision)
    inputs = exact_numbers((lanes, size), precision, seed)
    states = exact_numbers((lanes, hidden), precision, seed + 1)
    cells = np.random.default_rng(seed).standard_normal((lanes, hidden if has_cell else 0)).astype(np.float32)
    batch = Lanes(spec)
    for lane in range(lanes):
        slot = network.slots.allocate()
        assert slot == lane
        put(network.slots, slot, [(states[lane], cells[lane])])
        batch.add(slot, inputs[lane][None], position=1, sampling=Sampling())
    network.step(batch)
    for lane in range(lanes):
        before = (states[lane].astype(np.float64), cells[lane].astype(np.float64))
        outputs, ((h, c),) = reference.step(spec, seen, [before], inputs[lane])
        found_h, found_c = get(spec, network.slots, lane)[0]
        np.testing.assert_allclose(found_h, h, atol=CLOSE, rtol=CLOSE)
        np.testing.assert_allclose(found_c, c, atol=CLOSE, rtol=CLOSE)
        np.testing.assert_allclose(batch.outputs(lane), outputs, atol=LOOSE[precision])


def check_zeros(make: Maker, precision: str) -> None:
    """A row of zeros, an output without weights, an input of zeros: no division by a scale of zero."""
    spec = feature_spec(CellKind.GRU, hidden=(5,))
    tensors = random_tensors(spec)
    tensors["layers.0.weight_ih"][2] = 0.0
    tensors["head.weight"][:] = 0.0
    network = make(spec, tensors, slots=1, precision=precision)
    lanes = Lanes(spec)
    lanes.add(network.slots.allocate() or 0, np.zeros((1, 3), np.float32), position=1, sampling=Sampling())
    network.step(lanes)
    np.testing.assert_array_equal(lanes.outputs(0), tensors["head.bias"])
    _, ((h, _),) = reference.run(spec, tensors, np.zeros((1, 3)))
    np.testing.assert_allclose(network.hidden(0)[0], h, atol=CLOSE)
