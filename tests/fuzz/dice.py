"""Choices made by an input's bytes: the same bytes choose the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

ODD_TEXTS = ("", "\0", "é", "\U0001f600", "../x", "a b", "%s%n", "a" * 128, "a" * 129, "ü" * 700, "x" * 5_000)


class Dice:
    """When the bytes are used up, what they seed chooses: short inputs are whole ones too."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0
        self._rest: random.Random | None = None

    def below(self, count: int) -> int:
        """From 0 to count - 1."""
        if count <= 1:
            return 0
        size = ((count - 1).bit_length() + 7) // 8
        end = self._next + size
        if end > len(self._data):
            if self._rest is None:
                self._rest = random.Random(self._data)
            return self._rest.randrange(count)
        number = int.from_bytes(self._data[self._next : end], "little")
        self._next = end
        return number % count

    def chance(self, percent: int) -> bool:
        return self.below(256) * 100 < percent * 256

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def integer(self, bits: int) -> int:
        """Any unsigned integer of so many bits; small ones and the largest ones often."""
        kind = self.below(4)
        if kind == 0:
            return self.below(4)
        if kind == 1:
            return self.below(100)
        if kind == 2:
            return max(0, (1 << self.below(bits + 1)) - 1 - self.below(3))
        return self.below(1 << bits)

    def number(self) -> float:
        """A float32, most often one that a model may get."""
        if self.below(100) < 98:
            return (self.below(256) - 128) / 64
        odd = (
            0.0,
            -0.0,
            1e-45,
            1e30,
            -1e30,
            1.1e30,
            3.4e38,
            -3.4e38,
            float("inf"),
            float("-inf"),
            float("nan"),
        )
        return self.pick(odd)

    def text(self) -> str:
        """Any text that UTF-8 can carry."""
        if self.chance(50):
            return self.pick(ODD_TEXTS)
        return "".join(self.pick("abz .\n~_-AZ09é\t") for _ in range(self.below(40)))

    def some_bytes(self, most: int) -> bytes:
        return bytes(self.below(256) for _ in range(self.below(most)))

    def damage(self, data: bytes) -> bytes:
        """The same with a few bytes changed, cut out, put in or twice."""
        changed = bytearray(data)
        for _ in range(1 + self.below(3)):
            begin = self.below(len(changed) + 1)
            kind = self.below(5)
            if kind == 0 and begin < len(changed):
                changed[begin] ^= 1 << self.below(8)
            elif kind == 1:
                changed[begin : begin + 1] = bytes((self.below(256),))
            elif kind == 2:
                del changed[begin : begin + 1 + self.below(16)]
            elif kind == 3:
                changed[begin:begin] = self.some_bytes(16)
            else:
                changed[begin:begin] = changed[begin : begin + 1 + self.below(32)]
        return bytes(changed)
