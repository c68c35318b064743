"""What a request asks of a session, beside its inputs."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from keepgate_kernels import Sampling
from numpy.typing import NDArray

GREEDY = Sampling()
DIGEST_BYTES = 16
SHORT_BYTES = 8
"""Inputs that take no more are not hashed: that takes longer than to keep and compare them."""
_PACKED = struct.Struct("<dIdQI???I")


class Kind(IntEnum):
    """What a job is part of. FEED is a generation that goes on: a token drawn became an input."""

    STEP = 0
    SCORE = 1
    GENERATE = 2
    FEED = 3


_KINDS = tuple(bytes((kind,)) for kind in Kind)


@dataclass(frozen=True, slots=True)
class Wants:
    """What a prediction carries beyond the token or the outputs."""

    top_k: int = 0
    logits: bool = False
    hidden: bool = False
    state: bool = False


NOTHING_MORE = Wants()


class Options(NamedTuple):
    """more: what else tells two requests apart, such as a generation's own options."""

    sampling: Sampling = GREEDY
    wants: Wants = NOTHING_MORE
    more: bytes = b""

    def pack(self) -> bytes:
        """Little-endian: temperature f64, top_k u32, top_p f64, seed u64; top_k u32, logits, hidden and state
        of what is wanted; the length u32 of `more`, and `more`."""
        sampling, wants = self.sampling, self.wants
        packed = _PACKED.pack(
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.seed,
            wants.top_k,
            wants.logits,
            wants.hidden,
            wants.state,
            len(self.more),
        )
        return packed + self.more

    @classmethod
    def unpack(cls, packed: bytes | bytearray, offset: int) -> tuple[Options, int]:
        """Options that begin at `offset`, and where they end. Raises ValueError if they are cut off."""
        try:
            temperature, top_k, top_p, seed, *wanted, size = _PACKED.unpack_from(packed, offset)
        except struct.error as error:
            raise ValueError(str(error)) from error
        begin = offset + _PACKED.size
        more = bytes(packed[begin : begin + size])
        if len(more) != size:
            raise ValueError(f"{size} bytes of options from byte {begin} of {len(packed)}")
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        return cls(sampling, Wants(*wanted), more), begin + size


NO_OPTIONS = Options()


def digest(kind: Kind, inputs: NDArray[Any], options: Options) -> bytes:
    """What tells two requests apart: 128 bits over their kind, inputs and options.

    A short request that asks for nothing more is its own digest, of another length.
    """
    if inputs.nbytes <= SHORT_BYTES and (options is NO_OPTIONS or options == NO_OPTIONS):
        return _KINDS[kind] + inputs.tobytes()
    hashed = hashlib.blake2b(bytes((kind,)) + options.pack(), digest_size=DIGEST_BYTES)
    hashed.update(np.ascontiguousarray(inputs).data)
    return hashed.digest()
