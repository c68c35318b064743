"""Frames of groups, and the single steps whose answers they must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from keepgate_client import Client, Frame
from numpy.typing import NDArray

ROWS, STEPS = 24, 40
VOCABULARY = 30
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_k": 12, "top_p": 0.9}

Columns = tuple[NDArray[np.uint32], NDArray[np.float32]]


def inputs(rows: int = ROWS, steps: int = STEPS) -> NDArray[np.uint32]:
    return np.random.default_rng(3).integers(0, VOCABULARY, (steps, rows), dtype=np.uint32)


def columns(frames: list[Frame]) -> Columns:
    """Tokens and log-probabilities [T, B] of frames without errors."""
    for frame in frames:
        assert frame.errors == {}
        assert frame.outputs is None
        assert frame.tokens is not None
        assert frame.log_probabilities is not None
    tokens = np.array([frame.tokens for frame in frames], np.uint32)
    return tokens, np.array([frame.log_probabilities for frame in frames], np.float32)


def single(client: Client, tokens: NDArray[np.uint32], **sampling: Any) -> Columns:
    """What steps of one session each answer; seeds are the rows."""
    answers = []
    for row in range(tokens.shape[1]):
        with client.open("letters") as session:
            steps = [session.step(tokens=int(t), seed=row, **sampling) for t in tokens[:, row]]
            answers.append([(p.token, p.log_probability) for p in steps])
    values = np.array(answers).transpose(2, 1, 0)
    return values[0].astype(np.uint32), values[1].astype(np.float32)


def same(left: Columns, right: Columns) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.tobytes() == b.tobytes()


def run(client: Client, sessions: list[Any]) -> Columns:
    with client.group(sessions, seeds=range(len(sessions)), **SAMPLED) as group:
        frames = [group.step(tokens=t, log_probabilities=True).result() for t in inputs()]
        assert group.positions.tolist() == [STEPS] * ROWS
    return columns(frames)
