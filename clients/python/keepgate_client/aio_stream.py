"""Many sessions over one bidirectional call, for asyncio."""

from __future__ import annotations

from asyncio import Future
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans
from keepgate_client._aio_driver import AsyncDriver
from keepgate_client._io import AsyncIO
from keepgate_client._multiplex import Multiplexer
from keepgate_client._session import SessionState
from keepgate_client.types import Prediction

if TYPE_CHECKING:
    from keepgate_client.aio_session import AsyncSession


class AsyncStream(AsyncDriver[Prediction]):
    """`Stream` for asyncio: `step` returns a future at once; await it now or later."""

    def __init__(self, io: AsyncIO, plans: _plans.Plans, window: int) -> None:
        core: Multiplexer[Future[Prediction]] = Multiplexer(plans.retry, window)
        super().__init__(io, core, io.stream, "stream")
        self._plans = plans
        self._core = core

    def step(
        self,
        session: AsyncSession,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        features: ArrayLike | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        top: int = 0,
        logits: bool = False,
        hidden: bool = False,
        state: bool = False,
        timeout: float | None = None,
    ) -> Future[Prediction]:
        """Queue a step and return its future; as `Stream.step`.

        first, second = stream.step(a, text="x"), stream.step(b, text="y")
        print((await first).text, (await second).text)
        """
        options = _convert.StepOptions(temperature, top_k, top_p, seed, top, logits, hidden, state)
        inputs = _convert.StepInputs.of(tokens, text, features)
        return self.submit(session._state, inputs, options, timeout)

    def submit(
        self,
        state: SessionState,
        inputs: _convert.StepInputs,
        options: _convert.StepOptions,
        timeout: float | None,
    ) -> Future[Prediction]:
        """What `step` does, with converted arguments."""
        request = inputs.request(state.session_id, options)
        seconds = self._plans.timeout if timeout is None else timeout
        return self._queue(
            seconds,
            lambda future, deadline: self._core.submit(state, request, inputs.count, future, deadline),
        )
