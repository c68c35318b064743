"""The load over the V2 inference protocol: one unary ModelInfer a step.

The messages are made from the descriptor that the server has written: its own stubs live in its own
environment.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pool, message_factory

from service_bench.load import TOKENS, Clock, Sample, Target, processor_seconds

METHOD = "/inference.GRPCInferenceService/"
MODEL = "sequences"
TOKEN_BYTES = 4
READY_SECONDS = 60.0
ASK_SECONDS = 5.0
POLL_SECONDS = 0.1

sequence_ids = itertools.count(1)


class Protocol:
    """ModelInfer and ServerReady over a channel. descriptor: the serialised FileDescriptorProto."""

    def __init__(self, descriptor: bytes) -> None:
        pool: Any = descriptor_pool.DescriptorPool()  # its stubs leave out types
        pool.AddSerializedFile(descriptor)

        def message(name: str) -> Any:
            return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))

        self._request, self._response = message("ModelInferRequest"), message("ModelInferResponse")
        self._asked, self._told = message("ServerReadyRequest"), message("ServerReadyResponse")

    def infer(self, channel: grpc.aio.Channel) -> Any:
        return channel.unary_unary(
            METHOD + "ModelInfer",
            request_serializer=self._request.SerializeToString,
            response_deserializer=self._response.FromString,
        )

    async def wait_ready(self, address: str) -> None:
        """Raises RuntimeError if the server is not ready in time."""
        deadline = time.monotonic() + READY_SECONDS
        async with grpc.aio.insecure_channel(address) as channel:
            ask = channel.unary_unary(
                METHOD + "ServerReady",
                request_serializer=self._asked.SerializeToString,
                response_deserializer=self._told.FromString,
            )
            while time.monotonic() < deadline:
                try:
                    if (await ask(self._asked(), timeout=ASK_SECONDS)).ready:
                        return
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                await asyncio.sleep(POLL_SECONDS)
        raise RuntimeError(f"{address} was not ready in {READY_SECONDS} s")

    def request(self, sequence: int, token: int, *, start: bool = False, end: bool = False) -> Any:
        """One step of a sequence."""
        request = self._request(model_name=MODEL, raw_input_contents=[token.to_bytes(TOKEN_BYTES, "little")])
        request.inputs.add(name="tokens", datatype="INT32", shape=[1, 1])
        request.parameters["sequence_id"].int64_param = sequence
        if start:
            request.parameters["sequence_start"].bool_param = True
        if end:
            request.parameters["sequence_end"].bool_param = True
        return request


def predicted(answer: Any) -> int:
    """The token of an answer."""
    return int.from_bytes(answer.raw_output_contents[0], "little")


async def measure(target: Target, protocol: Protocol, sessions: int, seconds: float) -> Sample:
    """Step so many sequences, each of which starts with its first step and ends with one more."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        infer = protocol.infer(channel)
        sequences = [next(sequence_ids) for _ in range(sessions)]
        spent = processor_seconds(target.pid)
        clock = Clock(seconds)

        async def one(sequence: int) -> None:
            position = 0
            while True:
                request = protocol.request(sequence, position % TOKENS, start=position == 0)
                sent = time.perf_counter()
                await infer(request)
                position += 1
                if not clock.note(sent):
                    return

        await asyncio.gather(*(one(sequence) for sequence in sequences))
        spent = processor_seconds(target.pid) - spent
        ends = [protocol.request(sequence, 0, end=True) for sequence in sequences]
        await asyncio.gather(*(infer(request) for request in ends))
        return clock.sample(target.name, "ModelInfer", sessions, spent)


async def answers(target: Target, protocol: Protocol, tokens: list[int]) -> list[int]:
    """The greedy token after each of these."""
    sequence, last = next(sequence_ids), len(tokens) - 1
    async with grpc.aio.insecure_channel(target.address) as channel:
        infer = protocol.infer(channel)
        return [
            predicted(await infer(protocol.request(sequence, token, start=i == 0, end=i == last)))
            for i, token in enumerate(tokens)
        ]
