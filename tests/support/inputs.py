"""Inputs for every model of `support.repositories`, and all that a prediction can tell."""

from __future__ import annotations

import numpy as np
from keepgate_protos.v1 import sequences_pb2 as pb

EVERYTHING = pb.Outputs(top_k=3, logits=True, hidden=True, state=True)
VECTORS = pb.Outputs(hidden=True, state=True)
MODELS = [("letters", "1"), ("letters", "2"), ("ids", "1"), ("vectors", "1")]
TEXT = "now is the winter of our discontent, made glorious summer by this sun of york.\n"


def values(model: str, count: int, seed: int = 3) -> pb.Inputs:
    """Random inputs that the model takes."""
    rng = np.random.default_rng(seed)
    if model == "vectors":
        return pb.Inputs(features=pb.Features(values=rng.standard_normal(3 * count)))
    return pb.Inputs(tokens=pb.Tokens(ids=rng.integers(0, 11, count)))


def outputs(model: str) -> pb.Outputs:
    """Everything that the model's predictions can tell."""
    return VECTORS if model == "vectors" else EVERYTHING
