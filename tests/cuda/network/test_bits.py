"""A session's bits do not depend on its batch: size, lane, company, shape of the tiles, split of the
inputs."""

from __future__ import annotations

import pytest
from keepgate_kernels import PRECISIONS, CellKind, ModelSpec
from keepgate_kernels.cuda.tiles import SHAPES, SMALL
from support.bits import answers
from support.cuda_runs import cuda_network
from support.random_models import feature_spec, random_inputs, random_tensors, token_spec


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
        for shape in SHAPES
    ]
    assert all(each == found[0] for each in found)
    alone = cuda_network(spec, tensors, slots=1, precision=precision, shape=SMALL)
    assert answers(alone, sequences[17:], 1, 1) == found[0][17:]
