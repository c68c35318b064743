"""How long will a batch take? Learnt from the batches before it. Pure."""

from __future__ import annotations

WEIGHT = 0.2
"""Weight of the newest measurement in the moving average."""
MOST_SURPRISE = 2.0
"""How many times the average one measurement counts at most: one of a thread that had to wait for a core says
little about the batch."""
FIRST_GUESS_FLOPS = 5e9
"""Operations a second assumed until the first measurement: one core of an old laptop."""


class CostModel:
    """Seconds of a batch by the number of its inputs, one moving average for each power of two.

    One average a power of two, because the pass over the weights is shared by a batch: an input of
    a batch of one costs several times that of a batch of a hundred.
    """

    def __init__(self, flops_per_input: int) -> None:
        self._guess = flops_per_input / FIRST_GUESS_FLOPS
        self._seconds: dict[int, float] = {}  # a batch's bit length -> seconds an input

    def estimate(self, inputs: int) -> float:
        """Seconds that a batch of `inputs` will take."""
        return inputs * self._seconds.get(inputs.bit_length(), self._guess)

    def learn(self, inputs: int, seconds: float) -> None:
        """A batch of `inputs` took `seconds`."""
        key = inputs.bit_length()
        measured = seconds / inputs
        old = self._seconds.get(key)
        if old is None:
            self._seconds[key] = measured
        else:
            self._seconds[key] = old + WEIGHT * (min(measured, MOST_SURPRISE * old) - old)
