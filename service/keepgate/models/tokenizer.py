"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from keepgate.errors import UnknownCharacterError


class CharacterCodec:
    """One token a character: token id i is `vocabulary[i]`."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self._ids = {character: index for index, character in enumerate(self.vocabulary)}

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Token ids, uint32 [T]. Raises UnknownCharacterError naming the first that is unknown."""
        ids = self._ids
        try:
            return np.array([ids[character] for character in text], dtype=np.uint32)
        except KeyError:
            index = next(i for i, character in enumerate(text) if character not in ids)
            raise UnknownCharacterError(text[index], index) from None

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids, each of which must be below the vocabulary size."""
        vocabulary = self.vocabulary
        return "".join([vocabulary[token] for token in tokens])
