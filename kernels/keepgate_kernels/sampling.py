"""Drawing a token: a pure function of logits, seed, position and options.

The same draw can therefore be made in the kernel, by a client that holds the logits, or years later.
Random numbers: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, 2011), keyed by the seed, counted by the
position. Order of operations: temperature, then top-k, then top-p over what top-k left, as most libraries
do. Equal logits rank by ascending token id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cpu.activations import exp_nonpositive
from keepgate_kernels.jit import VECTOR_GATES, entry, part

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)
_WEYL_1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10
_LEAST_TEMPERATURE = np.float32(1e-6)
"""Below it the most probable token has all of the mass already; keeps 1 / temperature finite."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn.

    temperature: 0 or more; 0 takes the most probable token. top_k: tokens kept; 0, or as many as there are,
    keeps all. top_p: above 0, up to 1, which keeps all. seed: 64 bits.
    Raises ValueError naming the field at fault.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds: tuple[tuple[str, float, bool, str], ...] = (
            (
                "temperature",
                self.temperature,
                math.isfinite(self.temperature) and self.temperature >= 0,
                "a finite number, at least 0",
            ),
            ("top_k", self.top_k, 0 <= self.top_k < 1 << 32, "from 0 to 2**32 - 1"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("seed", self.seed, 0 <= self.seed < 1 << 64, "from 0 to 2**64 - 1"),
        )
        for name, value, valid, expected in bounds:
            if not valid:
                raise ValueError(f"{name}: got {value}, expected {expected}")

    def as_record(self) -> tuple[int, float, float, int]:
        """Values in the order of OPTIONS."""
        return self.seed, self.temperature, self.top_p, self.top_k


@part()
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


@part()
def uniform(seed, position):
    """A float64 in [0, 1) with 53 random bits."""
    high, low = philox(position, seed)
    return ((high >> np.uint64(5)) * 67108864.0 + (low >> np.uint64(6))) / 9007199254740992.0


@part(VECTOR_GATES)
def _exponentials(logits, largest, scale, out):
    """out = exp((logits - largest) * scale)."""
    for n in range(logits.size):
        out[n] = exp_nonpositive((logits[n] - largest) * scale)


@part()
def _sum(values):
    total = 0.0
    for value in values:
        total += value
    return total


@part()
def _ranks_before(logits, a, b):
    return logits[a] > logits[b] or (logits[a] == logits[b] and a < b)


@part()
def _sift_down(heap, size, root, logits):
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and _ranks_before(logits, heap[child + 1], heap[child]):
            child += 1
        if not _ranks_before(logits, heap[child], heap[root]):
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


@part()
def _make_heap(heap, logits):
    """Token ids as a heap whose root is the most probable."""
    size = logits.size
    for n in range(size):
        heap[n] = n
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(heap, size, root, logits)


@part()
def _pop(heap, size, logits):
    """Take the root away; it lies at heap[size - 1] afterwards."""
    heap[0], heap[size - 1] = heap[size - 1], heap[0]
    _sift_down(heap, size - 1, 0, logits)
    return heap[size - 1]


@part()
def log_normaliser(logits, powers):
    """(largest logit, log of the sum of exp(logit - largest)); powers: float32 scratch [V]."""
    largest = logits.max()
    _exponentials(logits, largest, np.float32(1.0), powers)
    return largest, np.log(_sum(powers))


@part()
def _draw_from_all(powers, target):
    running = 0.0
    for token in range(powers.size):
        running += powers[token]
        if running > target:
            return token
    return powers.size - 1


@part()
def _draw_from_most_probable(logits, powers, u, top_k, top_p, heap):
    """Draw among the tokens that top_k and top_p keep; they end up at the back of heap, best last."""
    size = logits.size
    _make_heap(heap, logits)
    most = top_k if 0 < top_k < size else size
    if most < size:
        within = 0.0
        for taken in range(most):
            within += powers[_pop(heap, size - taken, logits)]
        popped = most
    else:
        within = _sum(powers)
        popped = 0
    kept_mass = 0.0
    kept = 0
    while kept < most:
        if kept == popped:
            _pop(heap, size - popped, logits)
            popped += 1
        kept_mass += powers[heap[size - 1 - kept]]
        kept += 1
        if top_p < 1.0 and kept_mass >= top_p * within:
            break
    target = u * kept_mass
    running = 0.0
    for rank in range(kept):
        running += powers[heap[size - 1 - rank]]
        if running > target:
            return heap[size - 1 - rank]
    return heap[size - kept]


@part()
def draw(logits, position, option, powers, heap):
    """(token, log-probability under the model itself) of one row of logits [V].

    option: a record with seed, temperature, top_k, top_p; powers float32 [V] and heap int64 [V]: scratch.
    """
    largest, log_sum = log_normaliser(logits, powers)
    if option.temperature == 0.0:
        token = np.int64(logits.argmax())
    else:
        u = uniform(option.seed, position)
        scale = np.float32(1.0) / max(option.temperature, _LEAST_TEMPERATURE)
        _exponentials(logits, largest, scale, powers)
        if not 0 < option.top_k < logits.size and option.top_p >= 1.0:
            token = np.int64(_draw_from_all(powers, u * _sum(powers)))
        else:
            top_k, top_p = np.int64(option.top_k), np.float64(option.top_p)
            token = np.int64(_draw_from_most_probable(logits, powers, u, top_k, top_p, heap))
    return token, np.float32(logits[token] - largest - log_sum)


OPTIONS = [("seed", "<u8"), ("temperature", "<f4"), ("top_p", "<f4"), ("top_k", "<u4")]
"""Fields of a record that tells `draw` how."""


@entry
def _draw_one(logits, position, options):
    powers = np.empty(logits.size, np.float32)
    heap = np.empty(logits.size, np.int64)
    return draw(logits, position, options[0], powers, heap)


@entry
def _rank(logits, count):
    """The `count` most probable tokens and their log-probabilities."""
    tokens = np.empty(count, np.uint32)
    log_probabilities = np.empty(count, np.float32)
    heap = np.empty(logits.size, np.int64)
    largest, log_sum = log_normaliser(logits, np.empty(logits.size, np.float32))
    _make_heap(heap, logits)
    for rank in range(count):
        token = _pop(heap, logits.size - rank, logits)
        tokens[rank] = token
        log_probabilities[rank] = logits[token] - largest - log_sum
    return tokens, log_probabilities


def sample(logits: NDArray[np.float32], position: int, sampling: Sampling) -> tuple[int, float]:
    """Draw as the kernel does: (token id, natural log-probability under the model itself).

    logits: float32 [V]; position: the session's position after the input that gave these logits.
    """
    options = np.array([sampling.as_record()], np.dtype(OPTIONS, align=True))
    token, log_probability = _draw_one(_row(logits), np.uint64(position), options)
    return int(token), float(log_probability)


def top_tokens(logits: NDArray[np.float32], count: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """The `count` most probable tokens [count], best first, and their log-probabilities [count].

    Raises ValueError unless 1 <= count <= V.
    """
    if not 1 <= count <= logits.size:
        raise ValueError(f"count: got {count}, expected 1 to the vocabulary size, {logits.size}")
    tokens, log_probabilities = _rank(_row(logits), count)
    return tokens, log_probabilities


def _row(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(logits, np.float32)
