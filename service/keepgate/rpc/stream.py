"""One Stream call: steps of many sessions, answered as they are ready, in order within a session.

The call reads while fewer than `limit` of its steps wait for their answer to be written, so a
client that does not read is not read from: HTTP/2's flow control carries the pressure back to it.

One task reads and one writes, so that either goes on while the other waits. A stream that steps one session
has little to read before it has answered: there the reader writes too, and wakes nobody.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import NamedTuple

import grpc
from keepgate_protos.v1 import sequences_pb2 as pb

from keepgate.directory import Outcome
from keepgate.engine.job import Job
from keepgate.errors import InvalidArgumentError, RequestError
from keepgate.models.registry import LoadedModel
from keepgate.rpc.convert import fill_step, step_from
from keepgate.rpc.decode import well_formed
from keepgate.rpc.ending import check_end, ending
from keepgate.rpc.status import internal_status, to_status
from keepgate.sequences import Sequences
from keepgate.sessions.session import Session
from keepgate.telemetry.calls import Call, current

METHOD = "/keepgate.v1.Sequences/Stream"


class Due(NamedTuple):
    """A step that was read: its answer is complete once `job` is settled, or if there is an `error`."""

    request_id: int
    session_id: str
    job: Job | None
    replayed: bool
    model: LoadedModel | None
    error: Exception | None = None

    @property
    def is_complete(self) -> bool:
        return self.job is None or self.job.settled

    def answer(self, call: Call | None) -> pb.StreamResponse:
        """Made when it is complete, and in place: protobuf copies what is put into a message."""
        answer = pb.StreamResponse(request_id=self.request_id, session_id=self.session_id)
        error, job = self.error, self.job
        try:
            if job is not None and self.model is not None:
                if job.reply is not None:
                    fill_step(answer.step, job.reply, self.replayed, self.model)
                error = job.error
        except Exception as bug:  # unanswered, this step would keep the call from ending
            error = bug
        if isinstance(error, RequestError):
            answer.error.CopyFrom(to_status(error, call))
        elif error is not None:
            answer.error.CopyFrom(internal_status(error, METHOD, call))
        return answer


class StepStream:
    """Owns the sessions it steps until it ends."""

    def __init__(
        self, sequences: Sequences, context: grpc.aio.ServicerContext[pb.StreamRequest, pb.StreamResponse]
    ) -> None:
        self._sequences = sequences
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._call = current()
        self._limit = sequences.settings.max_stream_pending
        self._max_inputs = sequences.settings.max_inputs_per_request
        # Weak: a stream may live for long, and must not keep the sessions that ended meanwhile.
        self._owned: weakref.WeakSet[Session[Outcome]] = weakref.WeakSet()
        # Answers that are due, by session, the first of them not complete.
        self._due: dict[str, deque[Due]] = {}
        self._ready: deque[pb.StreamResponse] = deque()
        self._unwritten = 0
        self._claimed = 0  # sessions, those that ended included
        self._reader_writes = False
        self._ending = False  # nothing more is to be read
        self._idle: asyncio.Future[None] | None = None  # the writer's, while it has nothing to write
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client half-closes and has all answers, the server drains, or the stream is old.

        Raises DrainingError and ConnectionAgedError in the latter cases, when all that was read is answered,
        and InvalidArgumentError after a request that does not parse.
        """
        reader = asyncio.ensure_future(self._read())
        reader.add_done_callback(lambda _: self._rouse())
        self._sequences.callers += 1
        try:
            with ending(self._sequences, reader, lambda: self._end(reader)):
                await self._write(reader)
                check_end(self._sequences, reader)
        finally:
            self._sequences.callers -= 1
            for session in self._owned:
                session.owner = None

    def _end(self, reader: asyncio.Task[None]) -> None:
        self._ending = True
        if not self._reader_writes:  # else it ends when that is done
            reader.cancel()

    async def _read(self) -> None:
        read = self._context.read
        while isinstance(request := well_formed(await read()), pb.StreamRequest):  # else EOF
            while self._unwritten >= self._limit:
                self._room.clear()
                await self._room.wait()
            self._unwritten += 1
            await self._take(request)
            if not self._ready:
                continue
            if self._claimed > 1 or self._idle is None:
                self._wake()
                continue
            self._reader_writes = True
            await self._write_ready()
            self._reader_writes = False  # it stays if that failed: then nothing more can be written
            if self._ending:
                raise asyncio.CancelledError

    async def _write(self, reader: asyncio.Future[None]) -> None:
        while True:
            await self._write_ready()
            if reader.done() and (self._reader_writes or not self._unwritten):
                return
            self._idle = self._loop.create_future()
            await self._idle

    async def _write_ready(self) -> None:
        ready, write = self._ready, self._context.write
        while ready:
            await write(ready.popleft())
            self._unwritten -= 1
            if self._unwritten == self._limit - 1:
                self._room.set()

    def _wake(self) -> None:
        """Have what is ready written, if nobody is at it."""
        if not self._reader_writes:
            self._rouse()

    def _rouse(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def _take(self, request: pb.StreamRequest) -> None:
        """Submit one step; its answer is due after those of the same session before it."""
        step = request.step
        session_id = step.session_id
        try:
            if not request.HasField("step"):
                raise InvalidArgumentError("step", "nothing", "a step")
            session = await self._sequences.find(session_id)
            model = self._sequences.model_of(session)
            parts = step_from(step, model, self._max_inputs)
            is_own = session.owner is self
            job, replayed = self._sequences.step(session, *parts, owner=self)
        except asyncio.CancelledError:  # while the session was fetched: not applied, not answered
            self._unwritten -= 1
            raise
        except Exception as error:  # a refusal or a bug; an answer in any case
            due = Due(request.request_id, session_id, None, False, None, error)
        else:
            if not is_own:
                self._owned.add(session)
                self._claimed += 1
            due = Due(request.request_id, session_id, job, replayed, model)
        before = self._due.get(session_id)
        if before is not None:
            before.append(due)
        elif due.is_complete:
            self._ready.append(due.answer(self._call))  # the reader will see to it
            return
        else:
            self._due[session_id] = deque((due,))
        if due.job is not None:
            due.job.when_done(lambda _: self._flush(session_id))

    def _flush(self, session_id: str) -> None:
        """Move the answers of a session that are complete, up to the first that is not."""
        due = self._due.get(session_id)
        if due is None:
            return
        while due and due[0].is_complete:
            self._ready.append(due.popleft().answer(self._call))
        if not due:
            del self._due[session_id]
        self._wake()
