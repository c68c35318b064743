"""A bare grpc.aio server of keepgate.v1.Sequences that answers every step at once, with nothing behind it.

What it reaches is what gRPC and protobuf leave of a core: the yardstick for the real server. Its answers
are as long as those of a character model. Prints its address, then serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from keepgate_protos.v1 import sequences_pb2 as pb
from keepgate_protos.v1 import sequences_pb2_grpc

PREDICTION = pb.Prediction(token=42, text="e", log_probability=-1.5)


class Echo(sequences_pb2_grpc.SequencesServicer):
    """Step and Stream, without state."""

    async def Step(self, request: pb.StepRequest, context: Any) -> pb.StepResponse:  # noqa: N802
        return pb.StepResponse(position=request.position + 1, prediction=PREDICTION)

    async def Stream(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamRequest], context: Any
    ) -> AsyncIterator[pb.StreamResponse]:
        async for request in requests:
            step = request.step
            yield pb.StreamResponse(
                request_id=request.request_id,
                session_id=step.session_id,
                step=pb.StepResponse(position=step.position + 1, prediction=PREDICTION),
            )


async def serve() -> None:
    server = grpc.aio.server()
    add: Any = sequences_pb2_grpc.add_SequencesServicer_to_server  # generated without types
    add(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve())
