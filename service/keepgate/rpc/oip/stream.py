"""One ModelStreamInfer call: requests of many sequences, answered in the order in which they came.

The call reads while fewer than `limit` of its answers are unwritten, so a client that does not read is
not read from.
"""

from __future__ import annotations

import asyncio
from collections import deque

import grpc
from keepgate_protos.oip import grpc_service_pb2 as pb

from keepgate.errors import RequestError
from keepgate.rpc.decode import well_formed
from keepgate.rpc.ending import check_end, ending
from keepgate.rpc.oip.infer import Admitted, Inference
from keepgate.rpc.oip.parameters import parameters_from
from keepgate.rpc.status import internal_status, to_status
from keepgate.sequences import Sequences
from keepgate.telemetry.calls import Call, current

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
GRPC_ERROR = "triton_grpc_error"


class _Due:
    """The answer to one request: complete once it has an outcome."""

    __slots__ = ("error", "fatal", "request_id", "response")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.response: pb.ModelInferResponse | None = None
        self.error: Exception | None = None
        self.fatal = False

    @property
    def is_complete(self) -> bool:
        return self.response is not None or self.error is not None

    def message(self, call: Call | None) -> pb.ModelStreamInferResponse:
        """To be made once: an error is counted. Every response is the only one to its request, so it is the
        final one."""
        if self.response is not None:
            message = pb.ModelStreamInferResponse(infer_response=self.response)
        else:
            message = pb.ModelStreamInferResponse(error_message=_text(self.error, call))
            message.infer_response.id = self.request_id
            told = {"request_id": call.request_id} if call is not None else {}
            if isinstance(self.error, RequestError):
                told |= {"reason": self.error.reason, **self.error.metadata}
            for name, value in told.items():
                message.infer_response.parameters[f"keepgate_{name}"].string_param = value
        message.infer_response.parameters["triton_final_response"].bool_param = True
        return message


def _text(error: Exception | None, call: Call | None) -> str:
    if error is None:
        raise RuntimeError("an answer that is not complete")
    if isinstance(error, RequestError):
        return str(to_status(error, call).message)
    return str(internal_status(error, METHOD, call).message)


class InferStream:
    """Serves one call."""

    def __init__(
        self,
        sequences: Sequences,
        inference: Inference,
        context: grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelStreamInferResponse],
    ) -> None:
        self._inference = inference
        self._context = context
        self._call = current()
        self._sequences = sequences
        self._limit = sequences.settings.max_stream_pending
        self._all_fatal = (GRPC_ERROR, "true") in tuple(context.invocation_metadata() or ())
        self._due: deque[_Due] = deque()
        self._taking = False  # a request, whose answer will be due
        self._ending = False  # nothing more is to be read
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Serve until the client half-closes and has all answers, the server drains, or the stream is old.

        Raises DrainingError and ConnectionAgedError in the latter cases, when all that was taken is answered,
        InvalidArgumentError after a request that does not parse, and the first error if the client wants that
        to end the stream.
        """
        reader = asyncio.ensure_future(self._read())
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            with ending(self._sequences, reader, lambda: self._end(reader)):
                await self._write(reader)
                check_end(self._sequences, reader)
        finally:
            if reader.done() and not reader.cancelled():
                reader.exception()  # an error that was raised before this one has told enough

    def _end(self, reader: asyncio.Task[None]) -> None:
        """Read no more. A request that waits for the store may be half done: it goes on to its answer."""
        self._ending = True
        if not self._taking:
            reader.cancel()

    async def _read(self) -> None:
        while isinstance(
            request := well_formed(await self._context.read()), pb.ModelInferRequest
        ):  # else EOF
            while len(self._due) >= self._limit:
                self._room.clear()
                await self._room.wait()
            self._taking = True
            await self._take(request)
            self._taking = False
            if self._ending:
                raise asyncio.CancelledError

    async def _write(self, reader: asyncio.Future[None]) -> None:
        while True:
            while self._due and self._due[0].is_complete:
                due = self._due[0]
                if due.error is not None and (due.fatal or self._all_fatal):
                    raise due.error
                await self._context.write(due.message(self._call))
                self._due.popleft()
                self._room.set()
            if reader.done() and not self._due:
                return
            await self._wake.wait()
            self._wake.clear()

    async def _take(self, request: pb.ModelInferRequest) -> None:
        """Admit one request; its answer is due after all those before it."""
        due = _Due(request.id)
        self._due.append(due)
        try:
            parameters = parameters_from(request)
            due.fatal = parameters.grpc_error
            admitted = await self._inference.admit(request, parameters)
        except Exception as error:  # a refusal, or a bug; unanswered, it would keep the call from ending
            due.error = error
            self._wake.set()
            return
        admitted.jobs[-1].when_done(lambda _: self._answer(due, admitted))

    def _answer(self, due: _Due, admitted: Admitted) -> None:
        try:
            due.response = admitted.response()
        except Exception as error:  # as in `_take`
            due.error = error
        self._wake.set()
