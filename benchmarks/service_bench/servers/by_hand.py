"""A grpc.aio server of one model as a careful engineer would write it by hand, on PyTorch or ONNX Runtime.

It has Open, Step, Stream and Close of keepgate.v1, so that the same client drives it, and what they need:
sessions with a position, dynamic batching, states in one array. No retries, store, limits or deadlines.
Prints a line of JSON with its address, then serves until SIGTERM.

    python -m service_bench.servers.by_hand onnx_runtime FOLDER --threads 1 [--in-thread]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc

from service_bench.servers.ticker import Ticker

CAPACITY = 1024
"""Sessions at once."""
BACKENDS = {"pytorch": ("PyTorch", "weights.npz"), "onnx_runtime": ("OnnxRuntime", "step.onnx")}


@dataclass(slots=True)
class Session:
    slot: int
    position: int = 0


class Sequences(sequences_pb2_grpc.SequencesServicer):
    """characters: the text of each token."""

    def __init__(self, backend: Any, characters: str, *, in_thread: bool) -> None:
        self._backend = backend
        self._characters = characters
        self._ticker = Ticker(backend.step, in_thread=in_thread)
        self._free = list(range(CAPACITY))
        self._sessions: dict[str, Session] = {}

    async def Open(self, request: pb.OpenRequest, context: Any) -> pb.OpenResponse:  # noqa: N802
        if request.session_id in self._sessions or not self._free:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "taken")
        session = self._sessions[request.session_id] = Session(self._free.pop())
        self._backend.clear(session.slot)
        return pb.OpenResponse(session=pb.Session(session_id=request.session_id))

    async def Close(self, request: pb.CloseRequest, context: Any) -> pb.CloseResponse:  # noqa: N802
        session = self._sessions.pop(request.session_id)
        self._free.append(session.slot)
        return pb.CloseResponse(position=session.position)

    def _submit(self, step: pb.StepRequest) -> tuple[int, asyncio.Future[tuple[int, float]]]:
        """The position after the step, and its answer."""
        session = self._sessions[step.session_id]
        if step.position != session.position:
            raise ValueError(f"position: got {step.position}, expected {session.position}")
        session.position += 1
        return session.position, self._ticker.submit(session.slot, step.inputs.tokens.ids[0])

    def _answer(self, position: int, token: int, log_probability: float) -> pb.StepResponse:
        prediction = pb.Prediction(token=token, text=self._characters[token], log_probability=log_probability)
        return pb.StepResponse(position=position, prediction=prediction)

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:  # noqa: N802
        position, answer = self._submit(request)
        return self._answer(position, *await answer)

    async def Stream(self, requests: Any, context: Any) -> None:  # noqa: N802
        ready: deque[pb.StreamResponse] = deque()
        wake = asyncio.Event()
        open_steps = 0

        async def read() -> None:
            nonlocal open_steps
            while (request := await context.read()) is not grpc.aio.EOF:
                position, answer = self._submit(request.step)
                open_steps += 1
                answer.add_done_callback(partial(done, request, position))
            wake.set()

        def done(request: pb.StreamRequest, position: int, answer: asyncio.Future[tuple[int, float]]) -> None:
            step = self._answer(position, *answer.result())
            session_id = request.step.session_id
            ready.append(pb.StreamResponse(request_id=request.request_id, session_id=session_id, step=step))
            wake.set()

        reader = asyncio.ensure_future(read())
        try:
            while not reader.done() or open_steps:
                await wake.wait()
                wake.clear()
                while ready:
                    await context.write(ready.popleft())
                    open_steps -= 1
            reader.result()
        finally:
            reader.cancel()


async def serve(backend: Any, characters: str, *, in_thread: bool) -> None:
    server = grpc.aio.server()
    add: Any = sequences_pb2_grpc.add_SequencesServicer_to_server  # generated without types
    add(Sequences(backend, characters, in_thread=in_thread), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}", "variant": backend.variant}), flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--in-thread", action="store_true")
    options = parser.parse_args()
    name, file = BACKENDS[options.backend]
    module = importlib.import_module(f"service_bench.servers.{options.backend}")
    backend = getattr(module, name)(options.folder / file, CAPACITY, options.threads)
    characters = (options.folder / "characters").read_text()
    asyncio.run(serve(backend, characters, in_thread=options.in_thread))


if __name__ == "__main__":
    main()
