"""What each session is asked, request by request: the same for the same seed, whatever happens to servers."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass

from faults.history import Asked
from keepgate_protos.v1 import sequences_pb2 as pb
from support.repositories import ALPHABET

MODEL = "letters"
MOST_INPUTS = 8
MOST_TOKENS = 6
SCORES, GENERATIONS = 0.1, 0.15
"""Shares of the requests; the others are steps."""

Message = pb.StepRequest | pb.ScoreRequest | pb.GenerateRequest


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and where it is in its session. message: with the position, so that it may be sent again."""

    asked: Asked
    message: Message


class Script:
    """The requests of one session, one after the other.

    Each follows from the seed, the session and its index.
    """

    def __init__(self, session: str, seed: int) -> None:
        self.session = session
        self._seed = seed
        self._ends = [0]

    def at(self, index: int) -> Planned:
        """The request of this index; those before it have been asked for, or are made now."""
        while len(self._ends) <= index:
            self._make(len(self._ends) - 1)
        return self._make(index)

    def across(self, position: int) -> int:
        """The index of the request that takes the session beyond `position`."""
        return bisect_right(self._ends, position) - 1

    def _make(self, index: int) -> Planned:
        rng = random.Random(f"{self._seed}/{self.session}/{index}")
        start = self._ends[index]
        tokens = [rng.randrange(len(ALPHABET)) for _ in range(rng.randint(1, MOST_INPUTS))]
        inputs = pb.Inputs(tokens=pb.Tokens(ids=tokens))
        sampling = pb.Sampling(
            temperature=rng.choice((0.0, 0.7, 1.3)),
            top_k=rng.choice((0, 5)),
            top_p=rng.choice((0.0, 0.9)),
            seed=rng.getrandbits(64),
        )
        end = start + len(tokens)
        message: Message
        kind = rng.random()
        if kind < SCORES:
            message = pb.ScoreRequest(session_id=self.session, position=start, inputs=inputs, per_token=True)
        elif kind < SCORES + GENERATIONS:
            count = rng.randint(1, MOST_TOKENS)
            end += count - 1  # the last token drawn is not applied
            message = pb.GenerateRequest(
                session_id=self.session,
                position=start,
                prompt=inputs,
                sampling=sampling,
                max_tokens=count,
                coalesce=rng.randint(1, 3),
            )
        else:
            outputs = pb.Outputs(
                top_k=rng.choice((0, 3)), logits=rng.random() < 0.5, hidden=rng.random() < 0.5
            )
            message = _step(self.session, start, inputs, sampling, outputs)
        if index + 1 == len(self._ends):
            self._ends.append(end)
        return Planned(Asked(self.session, index, start, end), message)

    def closing(self, index: int) -> Planned:
        """Instead of the request of this index: one step whose answer has the whole state."""
        start = self.at(index).asked.start
        outputs = pb.Outputs(top_k=len(ALPHABET), logits=True, hidden=True, state=True)
        message = _step(self.session, start, pb.Inputs(tokens=pb.Tokens(ids=[1])), pb.Sampling(), outputs)
        return Planned(Asked(self.session, index, start, start + 1), message)


def _step(
    session: str, position: int, inputs: pb.Inputs, sampling: pb.Sampling, outputs: pb.Outputs
) -> pb.StepRequest:
    return pb.StepRequest(
        session_id=session, position=position, inputs=inputs, sampling=sampling, outputs=outputs
    )
