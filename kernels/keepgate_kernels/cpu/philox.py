"""Random numbers without a state: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, 2011)."""

from __future__ import annotations

import numpy as np

from keepgate_kernels.jit import part

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)
_WEYL_1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10


@part(inline=True)
def philox(counter, key):
    """Two of the four 32-bit words (the first pair) of Philox 4x32-10, as uint64.

    counter and key: uint64, each the low 64 bits of Philox's counter and its key.
    """
    c0, c1, c2, c3 = counter & _LOW, counter >> _WORD, np.uint64(0), np.uint64(0)
    k0, k1 = key & _LOW, key >> _WORD
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIER_0
        product1 = c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product1 >> _WORD) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> _WORD) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return c0, c1


@part(inline=True)
def uniform(seed, position):
    """A float64 in [0, 1) with 53 random bits."""
    high, low = philox(position, seed)
    return ((high >> np.uint64(5)) * 67108864.0 + (low >> np.uint64(6))) / 9007199254740992.0
