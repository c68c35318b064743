"""Running sequences through a network on a CUDA device, or on the machine for PTX, beside the
oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
from keepgate_kernels import Lanes, ModelSpec, Network, Sampling, TokenInput, reference
from keepgate_kernels.cuda.network import CudaNetwork
from keepgate_kernels.cuda.tiles import Shape

from support.random_models import random_tensors
from support.rounding import rounded
from support.states import get

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 5e-2}
"""Of values of order 1, against the oracle with weights rounded as the precision rounds them. What else is
rounded are rows: to 8 bits in bf16, to 1 / 127 of the largest in int8."""


def cuda_network(spec: ModelSpec, tensors: Any, *, shape: Shape | None = None, **options: Any) -> Network:
    """A network on the device whose products take a shape, or the one they choose."""
    network = Network(spec, tensors, device="cuda", **options)
    assert isinstance(network.backend, CudaNetwork)
    network.backend.shape = shape
    return network


def check(
    spec: ModelSpec, inputs: Any, precision: str, *, shape: Shape | None = None, steps: int = 0, seed: int = 0
) -> None:
    """Run inputs [B, T, ...] as one batch, `steps` of them at a time, and compare all answers and states."""
    tensors = random_tensors(spec, seed)
    seen = rounded(spec, tensors, precision)
    network = cuda_network(spec, tensors, slots=len(inputs), precision=precision, shape=shape)
    takes_tokens = isinstance(spec.input, TokenInput)
    slots = [network.slots.allocate() or 0 for _ in inputs]
    lanes, total = Lanes(spec), inputs.shape[1]
    scores: list[list[float]] = [[] for _ in inputs]
    for begin in range(0, total, steps or total):
        lanes.clear()
        for slot, sequence in zip(slots, inputs, strict=True):
            part = sequence[begin : begin + (steps or total)]
            position = begin + len(part)
            lanes.add(
                slot, part, position=position, sampling=Sampling(), score=takes_tokens, logits=takes_tokens
            )
        network.step(lanes)
        assert lanes.all_finite
        if takes_tokens:
            for lane in range(len(lanes)):
                scores[lane].extend(lanes.scores(lane).tolist())
    tolerance = TOLERANCE[precision]
    for lane, (slot, sequence) in enumerate(zip(slots, inputs, strict=True)):
        values, state = reference.run(spec, seen, sequence)
        found = lanes.logits(lane) if takes_tokens else lanes.outputs(lane)
        scale = max(1.0, np.abs(values[-1]).max())
        np.testing.assert_allclose(found, values[-1], atol=2 * tolerance * scale)
        for (h, c), expected in zip(get(spec, network.slots, slot), state, strict=True):
            for part, wanted in zip((h, c), expected, strict=True):
                size = max(1.0, np.abs(wanted).max(initial=0.0))
                np.testing.assert_allclose(part, wanted, atol=tolerance * size)
        if takes_tokens:
            log_probabilities = reference.log_softmax(values[-1])
            token = lanes.token(lane)
            assert log_probabilities[token] >= log_probabilities.max() - 4 * tolerance
            assert abs(lanes.log_probability(lane) - log_probabilities[token]) <= 4 * tolerance
            wanted = reference.score(spec, seen, sequence)
            np.testing.assert_allclose(scores[lane][1:], wanted, atol=4 * tolerance)
