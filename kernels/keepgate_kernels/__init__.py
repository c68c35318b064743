"""Gated recurrent networks in Numba: one step for many sessions.

    >>> network = Network(spec, tensors, slots=10_000)
    >>> lanes = Lanes(spec)
    >>> lane = lanes.add(network.slots.allocate(), tokens, position=len(tokens), sampling=Sampling())
    >>> network.step(lanes)
    >>> lanes.token(lane)

`spec` describes models, `reference` holds the equations, `Network` runs them.
"""

from keepgate_kernels.cpu.info import cpu_info
from keepgate_kernels.cpu.sizes import packed_bytes
from keepgate_kernels.lanes import Lanes
from keepgate_kernels.network import Network, check_device
from keepgate_kernels.sampling import Sampling, sample, top_tokens
from keepgate_kernels.spec import (
    CategoricalHead,
    CellKind,
    CellSpec,
    CharacterTokenizer,
    FeatureInput,
    LayerSpec,
    LinearHead,
    ModelSpec,
    SpecError,
    TokenInput,
)
from keepgate_kernels.weights import PRECISIONS, WeightsError

__all__ = [
    "PRECISIONS",
    "CategoricalHead",
    "CellKind",
    "CellSpec",
    "CharacterTokenizer",
    "FeatureInput",
    "Lanes",
    "LayerSpec",
    "LinearHead",
    "ModelSpec",
    "Network",
    "Sampling",
    "SpecError",
    "TokenInput",
    "WeightsError",
    "check_device",
    "cpu_info",
    "packed_bytes",
    "sample",
    "top_tokens",
]
