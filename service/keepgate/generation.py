"""Server-side autoregression: each token drawn is the next input.

A generation is kept by its session as the outcome of the request that began it. Any number of calls
may read it, now or later: each from the first token. It goes on only while a call asks for more, so
a call that goes away stops it between tokens, and the same request sent again goes on from there.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum, auto

from keepgate_kernels import Sampling

from keepgate.engine.job import Job, Prediction


class Finish(Enum):
    """Why a generation ended."""

    MAX_TOKENS = auto()
    STOP_TOKEN = auto()


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """max_tokens >= 1. stop_tokens end the generation and are part of it."""

    sampling: Sampling
    max_tokens: int
    stop_tokens: frozenset[int] = frozenset()

    def key(self) -> bytes:
        """What makes two requests different, beside prompt and sampling."""
        stops = sorted(self.stop_tokens)
        # The count tells the last stop token from the first of the prompt, which comes next.
        return struct.pack(f"<II{len(stops)}I", self.max_tokens, len(stops), *stops)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of a generation. position: the session's when the last one was drawn."""

    tokens: list[int]
    log_probabilities: list[float]
    position: int
    finish: Finish | None


class Generation:
    """start: the session's position when the first token is drawn. feed: applies a token to the
    session."""

    __slots__ = ("_feed", "_job", "_log_probabilities", "_options", "_start", "finish", "tokens")

    def __init__(self, start: int, options: GenerationOptions, feed: Callable[[int], Job]) -> None:
        self._start = start
        self._options = options
        self._feed = feed
        self.tokens = array("I")
        self._log_probabilities = array("f")
        self._job: Job | None = None
        self.finish: Finish | None = None

    def expect(self, job: Job) -> None:
        """The next token is drawn by `job`."""
        self._job = job
        job.when_done(self._drawn)

    async def chunks(self, size: int) -> AsyncIterator[Chunk]:
        """All tokens from the first, at most `size` in a chunk. The last chunk has `finish` set.

        Raises the errors of `SessionTable.extend`, and ComputationError.
        """
        sent = 0
        finish: Finish | None = None
        while finish is None:
            while len(self.tokens) - sent < size and self.finish is None:
                await self._next()
            end = min(sent + size, len(self.tokens))
            finish = self.finish if end == len(self.tokens) else None
            yield Chunk(
                self.tokens[sent:end].tolist(),
                self._log_probabilities[sent:end].tolist(),
                self._start + end - 1,
                finish,
            )
            sent = end

    async def _next(self) -> None:
        """Wait for one more token, which another call may have asked for already."""
        if self._job is None:
            self.expect(self._feed(self.tokens[-1]))
        job = self._job
        if job is not None:  # it is, unless the job was done at once
            await job.wait()

    def _drawn(self, job: Job) -> None:
        if not isinstance(job.reply, Prediction):
            return  # it failed; those who wait see the job's error
        self._job = None
        self.tokens.append(job.reply.token)
        self._log_probabilities.append(job.reply.log_probability)
        if job.reply.token in self._options.stop_tokens:
            self.finish = Finish.STOP_TOKEN
        elif len(self.tokens) >= self._options.max_tokens:
            self.finish = Finish.MAX_TOKENS
