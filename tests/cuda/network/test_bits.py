"""A session's bits do not depend on its batch: size, lane, company, shape of the tiles, split of the
inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from keepgate_kernels import PRECISIONS, CellKind, Lanes, ModelSpec, Network, Sampling
from keepgate_kernels.cuda.tiles import LARGE, MEDIUM, SMALL
from support.cuda_runs import cuda_network
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec

SAMPLING = Sampling(temperature=0.9, top_k=7, top_p=0.95, seed=2**63 + 5)

Bits = tuple[bytes, bytes, int, float]


def answers(network: Network, sequences: Sequence[np.ndarray], batch: int, steps: int) -> list[Bits]:
    """State, pooled answers, token and its log-probability after each sequence, run from zero."""
    results: list[Bits] = []
    for first in range(0, len(sequences), batch):
        group = sequences[first : first + batch]
        slots = [network.slots.allocate() or 0 for _ in group]
        lanes = Lanes(network.spec)
        tokens = lanes.takes_tokens
        scores = [b""] * len(group)
        for begin in range(0, len(group[0]), steps):
            lanes.clear()
            for slot, sequence in zip(slots, group, strict=True):
                part = sequence[begin : begin + steps]
                lanes.add(
                    slot,
                    part,
                    position=begin + len(part),
                    sampling=SAMPLING,
                    score=tokens,
                    top_k=3 if tokens else 0,
                    logits=tokens,
                )
            network.step(lanes)
            if tokens:
                scores = [known + lanes.scores(lane).tobytes() for lane, known in enumerate(scores)]
        for lane, slot in enumerate(slots):
            pooled = scores[lane] if tokens else lanes.outputs(lane).tobytes()
            if tokens:
                pooled += lanes.logits(lane).tobytes() + b"".join(part.tobytes() for part in lanes.top(lane))
            results.append((network.slots.read(slot), pooled, lanes.token(lane), lanes.log_probability(lane)))
            network.slots.release(slot)
    return results


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", CellKind)
def test_alone_and_among_others(kind: CellKind, precision: str) -> None:
    spec: ModelSpec = (token_spec if kind in (CellKind.LSTM, CellKind.GRU) else feature_spec)(
        kind, hidden=(11,)
    )
    network = cuda_network(spec, random_tensors(spec), slots=4, precision=precision)
    sequences = list(random_inputs(spec, (4, 2)))
    alone = answers(network, sequences, 1, 1)
    assert answers(network, sequences, 3, 2) == alone


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "gru"), ("bf16", "lstm"), ("int8", "cifg")])
def test_every_shape_of_tile(precision: str, kind: str) -> None:
    """Two chunks a quarter, so that both ways to share quarters among warps add more than one."""
    spec = feature_spec(kind, size={"fp32": 65, "bf16": 129, "int8": 257}[precision], hidden=(19,))
    tensors, sequences = random_tensors(spec), list(random_inputs(spec, (18, 1)))
    found = [
        answers(cuda_network(spec, tensors, slots=18, precision=precision, shape=shape), sequences, 18, 1)
        for shape in (SMALL, MEDIUM, LARGE)
    ]
    assert found[0] == found[1] == found[2]
    alone = cuda_network(spec, tensors, slots=1, precision=precision, shape=SMALL)
    assert answers(alone, sequences[17:], 1, 1) == found[0][17:]
