"""Carries one bidirectional call, with threads: whatever goes over it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from grpc import StatusCode

from keepgate_client import errors
from keepgate_client._core import CLOSE_SECONDS, Core
from keepgate_client._futures import Completion, complete
from keepgate_client._io import IO

A = TypeVar("A")


class Driver(Generic[A]):
    """Futures of A. The call is opened when there is something to send, and again when it breaks.

    open_call: makes the call, as IO.stream does. name: what this is to users, as "stream".
    """

    def __init__(self, io: IO, core: Core[Future[A]], open_call: Callable[..., Any], name: str) -> None:
        self._io = io
        self._driven = core
        self._open_call = open_call
        self._name = name
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

    def flush(self) -> None:
        """Wait until every step queued so far is answered or has failed."""
        with self._changed:
            while not self._driven.idle:
                self._changed.wait()

    def close(self) -> None:
        """End the call. Steps without an answer raise CallCancelledError and may be applied or not."""
        with self._changed:
            self._closing = True
            unanswered = not self._driven.idle
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

    def _queue(self, seconds: float, queue: Callable[[Future[A], float], None]) -> Future[A]:
        """A future, handed to `queue` with its deadline; `queue` tells the core, and may raise."""
        future: Future[A] = Future()
        future.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:
                raise errors.CallCancelledError(f"the {self._name} is closed", code=StatusCode.CANCELLED)
            queue(future, time.monotonic() + seconds)
            if self._thread is None:
                name = f"keepgate-{self._name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def _run(self) -> None:
        """The reading thread: opens the call whenever there is something to send, and reads it."""
        try:
            while self._wait_for_work():
                error = self._read_call()
                if not self._closing:
                    self._back_off(error)
        finally:
            closed = errors.CallCancelledError(f"the {self._name} was closed", code=StatusCode.CANCELLED)
            self._settle(lambda _: self._driven.fail_all(closed))

    def _read_call(self) -> errors.KeepgateError:
        over = threading.Event()
        self._call = call = self._open_call(self._requests(over))
        if self._closing:
            call.cancel()  # `close` may not have seen this call
        try:
            for response in call:
                self._settle(partial(self._driven.receive, response))
            return errors.UnreachableError(f"the server ended the {self._name}", code=StatusCode.UNAVAILABLE)
        except grpc.RpcError as failure:
            return self._io.error(failure)
        finally:
            with self._changed:
                over.set()
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while self._driven.idle and not self._closing:
                self._changed.wait()
            return not self._closing

    def _requests(self, over: threading.Event) -> Iterator[Any]:
        """What the call sends; gRPC iterates this in a thread of its own until the call is over."""
        while True:
            with self._changed:
                if over.is_set():
                    return  # before a message is taken that belongs to the next call
                now = time.monotonic()
                message = self._driven.next_message(now)
                if message is None and self._closing:
                    return
                if message is None:
                    self._changed.wait(self._driven.wait_seconds(now))
            if message is not None:
                yield message
            else:
                self._settle(self._driven.expire)

    def _back_off(self, error: errors.KeepgateError) -> None:
        """Wait as the retry policy says after a broken call, or fail what waits for answers."""
        resume_at = 0.0

        def break_off(now: float) -> list[Completion[Future[A]]]:
            nonlocal resume_at
            delay, completions = self._driven.broken(error)
            resume_at = now + (delay or 0.0)
            return completions

        self._settle(break_off)
        while (left := resume_at - time.monotonic()) > 0 and not self._closing:
            with self._changed:
                self._changed.wait(min(left, self._driven.wait_seconds(time.monotonic()) or left))
            self._settle(self._driven.expire)

    def _settle(self, event: Callable[[float], list[Completion[Future[A]]]]) -> None:
        """Tell the core what happened, then complete futures: not under the lock."""
        with self._changed:
            completions = event(time.monotonic())
            if completions or not self._driven.idle:
                self._changed.notify_all()
        complete(completions)
