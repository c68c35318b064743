"""Many sessions over one bidirectional call, synchronously."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans
from keepgate_client._driver import Driver
from keepgate_client._io import IO
from keepgate_client._multiplex import Multiplexer
from keepgate_client._session import SessionState
from keepgate_client.types import Prediction

if TYPE_CHECKING:
    from keepgate_client.session import Session


class Stream(Driver[Prediction]):
    """Steps of any number of sessions over one call. Made by Client.stream; safe to share by threads.

    A call that breaks is opened again, and unanswered steps are sent again in order: each is applied
    once. At the end of a `with` block the stream waits for all answers.

    A session belongs to the first stream that steps it until that stream is closed.
    """

    def __init__(self, io: IO, plans: _plans.Plans, window: int) -> None:
        core: Multiplexer[Future[Prediction]] = Multiplexer(plans.retry, window)
        super().__init__(io, core, io.stream, "stream")
        self._plans = plans
        self._core = core

    def step(
        self,
        session: Session,
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
        """Queue a step behind those of its session and return at once. Arguments as `Session.step`.

        The future raises what `Session.step` raises. After a refusal the session's steps that were
        queued before it came raise StepSkippedError and are not applied. A future cannot be cancelled: the
        step may be on its way.

        Raises SessionBusyError if a call outside this stream runs on the session, CallCancelledError if
        the stream is closed.

            future = stream.step(session, text="a")
            print(future.result().text)
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
