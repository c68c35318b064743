"""What a session was asked to do, as bytes: one record for every job that changed its state.

A record has all that the job's answer depends on beside the state before it, so that the same state and the
same record give the same answer again, bit by bit. Layout, little-endian:

    kind u8 | flags u8 | inputs u32 | options, if OWN_OPTIONS | token ids u32 each or float32 vectors

Options that are those of the record before are not repeated; the first record of a run has its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keepgate_kernels.spec import ModelSpec, TokenInput
from numpy.typing import NDArray

from keepgate.request import NO_OPTIONS, Kind, Options, digest

HEADER = struct.Struct("<BBI")
OWN_OPTIONS = 1


@dataclass(frozen=True, slots=True)
class Record:
    """start: the session's position before the inputs, uint32 [T] or float32 [T, K]."""

    start: int
    kind: Kind
    inputs: NDArray[Any]
    options: Options

    @property
    def end(self) -> int:
        """The position after the inputs."""
        return self.start + len(self.inputs)

    @property
    def digest(self) -> bytes:
        """That of the request."""
        return digest(self.kind, self.inputs, self.options)


class Codec:
    """Records of one model's sessions to bytes and back."""

    def __init__(self, spec: ModelSpec) -> None:
        tokens = isinstance(spec.input, TokenInput)
        self.state_bytes = spec.state_bytes
        self._vocabulary_size = spec.input.vocabulary_size if isinstance(spec.input, TokenInput) else 0
        self._shape: tuple[int, ...] = (-1,) if tokens else (-1, spec.input_size)
        self._type = np.dtype("<u4" if tokens else "<f4")
        self._input_bytes = 4 if tokens else 4 * spec.input_size

    def encode(self, kind: Kind, inputs: NDArray[Any], options: Options | None) -> bytes:
        """options None: those of the record before."""
        if inputs.dtype is not self._type:  # NumPy has one object for each of the usual types
            inputs = np.asarray(inputs, self._type)
        values = inputs.tobytes()
        if options is None:
            return HEADER.pack(kind, 0, len(inputs)) + values
        return HEADER.pack(kind, OWN_OPTIONS, len(inputs)) + options.pack() + values

    def encode_steps(self, inputs: NDArray[Any]) -> bytes:
        """Records of STEP, each of one of the inputs [T], with the options of the record before."""
        values = np.ascontiguousarray(inputs, self._type).view(np.uint8).reshape(len(inputs), -1)
        records = np.empty((len(inputs), HEADER.size + values.shape[1]), np.uint8)
        records[:, : HEADER.size] = np.frombuffer(HEADER.pack(Kind.STEP, 0, 1), np.uint8)
        records[:, HEADER.size :] = values
        return records.tobytes()

    @property
    def step_bytes(self) -> int:
        """The size of one of these records."""
        return HEADER.size + self._input_bytes

    def give_options(self, record: bytes, options: Options) -> bytes:
        """One of these records with options of its own."""
        kind, _, count = HEADER.unpack_from(record)
        return HEADER.pack(kind, OWN_OPTIONS, count) + options.pack() + record[HEADER.size :]

    def decode(self, start: int, run: bytes | bytearray) -> Iterator[Record]:
        """The records of a run whose first one is at `start`. Raises ValueError if it is damaged."""
        offset = 0
        options = NO_OPTIONS
        while offset < len(run):
            try:
                kind, flags, count = HEADER.unpack_from(run, offset)
                offset += HEADER.size
                if flags & OWN_OPTIONS:
                    options, offset = Options.unpack(run, offset)
                end = offset + count * self._input_bytes
                if count < 1 or end > len(run):
                    raise ValueError(f"{count} inputs from byte {offset} of {len(run)}")
                inputs = np.frombuffer(bytes(run[offset:end]), self._type).reshape(self._shape)
                record = Record(start, Kind(kind), inputs, options)
                self._check(record)
            except (struct.error, ValueError) as error:
                raise ValueError(f"a journal's record at position {start} is damaged: {error}") from error
            yield record
            start = record.end
            offset = end

    def _check(self, record: Record) -> None:
        """Raises ValueError unless the kernels can take the record: they look up what they are given."""
        size = self._vocabulary_size
        wants = record.options.wants
        if size and record.inputs.max() >= size:
            raise ValueError(f"token id {record.inputs.max()}, expected less than {size}")
        if not size and not np.isfinite(record.inputs).all():
            raise ValueError("features that are not finite")
        if wants.top_k > size or (wants.logits and not size):
            raise ValueError(f"options that the model has no answer to: {wants}")
