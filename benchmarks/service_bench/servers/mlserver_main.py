"""MLServer with a custom runtime: sequences on ONNX Runtime. Runs in an environment of its own.

Sequences go by Triton's parameters: sequence_id, sequence_start, sequence_end. MLServer's own adaptive
batching waits up to max_batch_time for company even when a lone session steps, and merges parameters of its
requests into one; so the runtime gathers by itself, like the servers written by hand. Access logs, metrics,
and worker processes, which would cost and could not share the states, are off. As MLServer's stubs are here
alone, they go to the client as FOLDER/descriptor.bin. Serves until SIGTERM.

    python -m service_bench.servers.mlserver_main FOLDER --grpc-port 8081 --http-port 8080 --threads 1
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.grpc import dataplane_pb2
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import install_uvloop_event_loop

from service_bench.servers.onnx_runtime import OnnxRuntime
from service_bench.servers.ticker import Ticker

CAPACITY = 1024
"""Sequences at once."""
MODEL = "sequences"


class Sequences(MLModel):
    """Input "tokens", INT32 [1, 1]; outputs "token", INT32 [1, 1], and "log_probability", FP32 [1, 1]."""

    async def load(self) -> bool:
        options = self.settings.parameters.extra
        backend = OnnxRuntime(Path(options["folder"]) / "step.onnx", CAPACITY, options["threads"])
        self._backend = backend
        self._ticker = Ticker(backend.step, in_thread=options["in_thread"])
        self._free = list(range(CAPACITY))
        self._slots: dict[int, int] = {}
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        parameters = payload.parameters
        sequence = parameters.sequence_id
        if getattr(parameters, "sequence_start", False):
            slot = self._slots[sequence] = self._free.pop()
            self._backend.clear(slot)
        slot = self._slots[sequence]
        token, log_probability = await self._ticker.submit(slot, payload.inputs[0].data[0])
        if getattr(parameters, "sequence_end", False):
            self._free.append(self._slots.pop(sequence))
        return InferenceResponse(
            model_name=MODEL,
            outputs=[
                ResponseOutput(name="token", shape=[1, 1], datatype="INT32", data=[token]),
                ResponseOutput(name="log_probability", shape=[1, 1], datatype="FP32", data=[log_probability]),
            ],
        )


async def serve(settings: Settings, model: ModelSettings) -> None:
    """Until SIGTERM."""
    server = MLServer(settings)  # it wants the loop that it will run in
    await server.start([model])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("--grpc-port", "--http-port", "--threads"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--in-thread", action="store_true")
    options = parser.parse_args()
    (options.folder / "descriptor.bin").write_bytes(dataplane_pb2.DESCRIPTOR.serialized_pb)
    settings = Settings(
        host="127.0.0.1",
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
    )
    extra = {"folder": str(options.folder), "threads": options.threads, "in_thread": options.in_thread}
    model = ModelSettings(name=MODEL, implementation=Sequences, parameters=ModelParameters(extra=extra))
    logging.disable(logging.INFO)
    install_uvloop_event_loop()  # as its command does
    asyncio.run(serve(settings, model))


if __name__ == "__main__":
    main()
