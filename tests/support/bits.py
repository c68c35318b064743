"""All that a network answers, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keepgate_kernels import Lanes, Network, Sampling
from numpy.typing import NDArray

SAMPLING = Sampling(temperature=0.9, top_k=7, top_p=0.95, seed=2**63 + 5)

Bits = tuple[bytes, bytes, int, float]
"""State, pooled answers, token and log-probability of a sequence."""


def answers(network: Network, sequences: Sequence[NDArray[Any]], batch: int, steps: int) -> list[Bits]:
    """Run every sequence from zero, `batch` lanes and `steps` inputs at a time; the final bits of each."""
    results: list[Bits] = []
    for first in range(0, len(sequences), batch):
        group = sequences[first : first + batch]
        slots = [network.slots.allocate() for _ in group]
        lanes = Lanes(network.spec)
        takes_tokens = lanes.takes_tokens
        scores = [b""] * len(group)
        for begin in range(0, len(group[0]), steps):
            lanes.clear()
            for slot, sequence in zip(slots, group, strict=True):
                assert slot is not None
                part = sequence[begin : begin + steps]
                lanes.add(
                    slot,
                    part,
                    position=begin + len(part),
                    sampling=SAMPLING,
                    score=takes_tokens,
                    top_k=min(5, network.spec.head.size) if takes_tokens else 0,
                    logits=takes_tokens,
                )
            network.step(lanes)
            if takes_tokens:
                scores = [known + lanes.scores(lane).tobytes() for lane, known in enumerate(scores)]
        for lane, slot in enumerate(slots):
            assert slot is not None
            state = b"".join(h.tobytes() for h in network.hidden(slot)) + network.slots.read(slot)
            if takes_tokens:
                pooled = lanes.logits(lane).tobytes() + b"".join(part.tobytes() for part in lanes.top(lane))
            else:
                pooled = lanes.outputs(lane).tobytes()
            results.append((state, pooled + scores[lane], lanes.token(lane), lanes.log_probability(lane)))
            network.slots.release(slot)
    return results
