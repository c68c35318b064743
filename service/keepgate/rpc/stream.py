"""One Stream call: steps of many sessions, answered as they are ready, in order within a session.

The call reads while fewer than `limit` of its steps wait for their answer to be written, so a
client that does not read is not read from: HTTP/2's flow control carries the pressure back to it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque

import grpc
from keepgate_protos.v1 import sequences_pb2 as pb

from keepgate.directory import Outcome
from keepgate.engine.job import Job
from keepgate.errors import ConnectionAgedError, DrainingError, InvalidArgumentError, RequestError
from keepgate.models.registry import LoadedModel
from keepgate.rpc.convert import step_from, step_to
from keepgate.rpc.decode import well_formed
from keepgate.rpc.status import internal_status, to_status
from keepgate.sequences import Sequences
from keepgate.sessions.session import Session

METHOD = "/keepgate.v1.Sequences/Stream"


class StepStream:
    """Owns the sessions it steps until it ends."""

    def __init__(
        self, sequences: Sequences, context: grpc.aio.ServicerContext[pb.StreamRequest, pb.StreamResponse]
    ) -> None:
        self._sequences = sequences
        self._context = context
        self._limit = sequences.settings.max_stream_pending
        # Weak: a stream may live for long, and must not keep the sessions that ended meanwhile.
        self._owned: weakref.WeakSet[Session[Outcome]] = weakref.WeakSet()
        # Answers that are due, by session; those at the front may be complete.
        self._due: dict[str, deque[pb.StreamResponse]] = {}
        self._ready: deque[pb.StreamResponse] = deque()
        self._unwritten = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client half-closes and has all answers, the server drains, or the stream is old.

        Raises DrainingError and ConnectionAgedError in the latter cases, when all that was read is answered,
        and InvalidArgumentError after a request that does not parse.
        """
        reader = asyncio.ensure_future(self._read())
        drain = asyncio.ensure_future(self._sequences.draining.wait())
        reader.add_done_callback(lambda _: self._wake.set())
        drain.add_done_callback(lambda _: reader.cancel())
        age = self._sequences.settings.connection_age_seconds
        end = asyncio.get_running_loop().call_later(age, reader.cancel) if age else None
        try:
            await self._write(reader)
            if reader.cancelled():
                raise DrainingError if self._sequences.draining.is_set() else ConnectionAgedError
            reader.result()
        finally:
            if end is not None:
                end.cancel()
            reader.cancel()
            drain.cancel()
            for session in self._owned:
                session.owner = None

    async def _read(self) -> None:
        while isinstance(request := well_formed(await self._context.read()), pb.StreamRequest):  # else EOF
            while self._unwritten >= self._limit:
                self._room.clear()
                await self._room.wait()
            self._unwritten += 1
            await self._take(request)

    async def _write(self, reader: asyncio.Future[None]) -> None:
        while True:
            while self._ready:
                await self._context.write(self._ready.popleft())
                self._unwritten -= 1
                self._room.set()
            if reader.done() and not self._unwritten:
                return
            await self._wake.wait()
            self._wake.clear()

    async def _take(self, request: pb.StreamRequest) -> None:
        """Submit one step; its answer is due after those of the same session before it."""
        step = request.step
        answer = pb.StreamResponse(request_id=request.request_id, session_id=step.session_id)
        self._due.setdefault(step.session_id, deque()).append(answer)
        try:
            if not request.HasField("step"):
                raise InvalidArgumentError("step", "nothing", "a step")
            session = await self._sequences.find(step.session_id)
            model = self._sequences.model_of(session)
            parts = step_from(step, model, self._sequences.settings.max_inputs_per_request)
            job, replayed = self._sequences.step(session, *parts, owner=self)
        except RequestError as error:
            answer.error.CopyFrom(to_status(error))
            self._flush(step.session_id)
            return
        except asyncio.CancelledError:  # while the session was fetched: not applied, not answered
            due = self._due[step.session_id]
            due.pop()
            if not due:
                del self._due[step.session_id]
            self._unwritten -= 1
            raise
        except Exception as error:  # a bug; unanswered, this step would keep the call from ending
            answer.error.CopyFrom(internal_status(error, METHOD))
            self._flush(step.session_id)
            return
        self._owned.add(session)
        job.when_done(lambda job: self._answer(answer, job, replayed, model))

    def _answer(self, answer: pb.StreamResponse, job: Job, replayed: bool, model: LoadedModel) -> None:
        try:
            if job.reply is not None:
                answer.step.CopyFrom(step_to(job.reply, replayed, model))
            elif job.error is not None:
                answer.error.CopyFrom(to_status(job.error))
        except Exception as error:  # as in `_take`
            answer.error.CopyFrom(internal_status(error, METHOD))
        self._flush(answer.session_id)

    def _flush(self, session_id: str) -> None:
        """Move the answers of a session that are complete, up to the first that is not."""
        due = self._due[session_id]
        while due and due[0].WhichOneof("result") is not None:
            self._ready.append(due.popleft())
        if not due:
            del self._due[session_id]
        self._wake.set()
