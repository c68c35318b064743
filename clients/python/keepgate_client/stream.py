"""Many sessions over one bidirectional call, synchronously."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc import StatusCode
from keepgate_protos.v1.sequences_pb2 import StreamRequest
from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans, errors
from keepgate_client._futures import Completion, complete
from keepgate_client._io import IO
from keepgate_client._multiplex import Multiplexer
from keepgate_client._session import SessionState
from keepgate_client.types import Prediction

if TYPE_CHECKING:
    from keepgate_client.session import Session

CLOSE_SECONDS = 5.0
"""How long the server may take to acknowledge the end of a stream before the call is cancelled."""


class Stream:
    """Steps of any number of sessions over one call. Made by Client.stream; safe to share by threads.

    A call that breaks is opened again, and unanswered steps are sent again in order: each is applied
    once. At the end of a `with` block the stream waits for all answers.

    A session belongs to the first stream that steps it until that stream is closed.
    """

    def __init__(self, io: IO, plans: _plans.Plans, window: int) -> None:
        self._io = io
        self._plans = plans
        self._core: Multiplexer[Future[Prediction]] = Multiplexer(plans.retry, window)
        self._changed = threading.Condition()
        self._closing = False
        self._call: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.flush()
        self.close()

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
        future: Future[Prediction] = Future()
        future.set_running_or_notify_cancel()
        seconds = self._plans.timeout if timeout is None else timeout
        with self._changed:
            if self._closing:
                raise errors.CallCancelledError("the stream is closed", code=StatusCode.CANCELLED)
            deadline = time.monotonic() + seconds
            self._core.submit(state, request, inputs.count, future, deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="keepgate-stream", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def flush(self) -> None:
        """Wait until every step queued so far is answered or has failed."""
        with self._changed:
            while not self._core.idle:
                self._changed.wait()

    def close(self) -> None:
        """End the stream. Steps without an answer raise CallCancelledError and may be applied or not."""
        with self._changed:
            self._closing = True
            unanswered = not self._core.idle
            self._changed.notify_all()
        thread = self._thread
        if thread is None:
            return
        # With nothing unanswered, wait for the server to let go of the sessions.
        if not unanswered:
            thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            call = self._call
            if call is not None:
                call.cancel()
            thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        """The reading thread: opens the call whenever there is something to send, and reads it."""
        try:
            while self._wait_for_work():
                error = self._read_call()
                if not self._closing:
                    self._back_off(error)
        finally:
            closed = errors.CallCancelledError("the stream was closed", code=StatusCode.CANCELLED)
            self._settle(lambda _: self._core.fail_all(closed))

    def _read_call(self) -> errors.KeepgateError:
        over = threading.Event()
        self._call = call = self._io.stream(self._requests(over))
        if self._closing:
            call.cancel()  # `close` may not have seen this call
        try:
            for response in call:
                self._settle(partial(self._core.receive, response))
            return errors.UnreachableError("the server ended the stream", code=StatusCode.UNAVAILABLE)
        except grpc.RpcError as failure:
            return self._io.error(failure)
        finally:
            with self._changed:
                over.set()
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while self._core.idle and not self._closing:
                self._changed.wait()
            return not self._closing

    def _requests(self, over: threading.Event) -> Iterator[StreamRequest]:
        """What the call sends; gRPC iterates this in a thread of its own until the call is over."""
        while True:
            with self._changed:
                if over.is_set():
                    return  # before a message is taken that belongs to the next call
                now = time.monotonic()
                message = self._core.next_message(now)
                if message is None and self._closing:
                    return
                if message is None:
                    self._changed.wait(self._core.wait_seconds(now))
            if message is not None:
                yield message
            else:
                self._settle(self._core.expire)

    def _back_off(self, error: errors.KeepgateError) -> None:
        """Wait as the retry policy says after a broken call, or fail what waits for answers."""
        resume_at = 0.0

        def break_off(now: float) -> list[Completion[Future[Prediction]]]:
            nonlocal resume_at
            delay, completions = self._core.broken(error)
            resume_at = now + (delay or 0.0)
            return completions

        self._settle(break_off)
        while (left := resume_at - time.monotonic()) > 0 and not self._closing:
            with self._changed:
                self._changed.wait(min(left, self._core.wait_seconds(time.monotonic()) or left))
            self._settle(self._core.expire)

    def _settle(self, event: Callable[[float], list[Completion[Future[Prediction]]]]) -> None:
        """Tell the core what happened, then complete futures: not under the lock."""
        with self._changed:
            completions = event(time.monotonic())
            if completions or not self._core.idle:
                self._changed.notify_all()
        complete(completions)
