"""The servicers of keepgate.v1: convert, call, convert. Domain errors are mapped by the
interceptor."""

# ruff: noqa: N802 (the proto names the methods)

from __future__ import annotations

from typing import Any

import grpc
from keepgate_protos.v1 import models_pb2, models_pb2_grpc, sequences_pb2_grpc
from keepgate_protos.v1 import sequences_pb2 as pb

from keepgate.errors import InvalidArgumentError
from keepgate.rpc import convert
from keepgate.rpc.describe import model_to
from keepgate.rpc.stream import StepStream
from keepgate.sequences import Sequences

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class SequencesServicer(sequences_pb2_grpc.SequencesServicer):
    """keepgate.v1.Sequences."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self._max_inputs = sequences.settings.max_inputs_per_request
        self._max_tokens = sequences.settings.max_generated_tokens

    async def Open(self, request: pb.OpenRequest, context: Context) -> pb.OpenResponse:
        model = self._sequences.registry.get(request.model, request.version)
        session = self._sequences.open(model, request.session_id, convert.ttl_from(request))
        return pb.OpenResponse(session=convert.session_to(session))

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepResponse:
        session = self._sequences.session(request.session_id)
        model = self._sequences.model_of(session)
        step = convert.step_from(request, model, self._max_inputs)
        job, replayed = self._sequences.step(session, *step)
        return convert.step_to(await job.wait(), replayed, model.codec)

    async def Stream(self, requests: Any, context: Context) -> None:
        await StepStream(self._sequences, context).run()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        session = self._sequences.session(request.session_id)
        model = self._sequences.model_of(session)
        parts = convert.generation_from(request, model, self._max_inputs, self._max_tokens)
        generation = self._sequences.generate(session, *parts)
        async for chunk in generation.chunks(request.coalesce or 1):
            await context.write(convert.chunk_to(chunk, model.codec))

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        target = request.WhichOneof("target")
        if target == "session_id":
            return await self._score_session(request)
        if target == "model":
            return await self._score_model(request)
        raise InvalidArgumentError("target", "nothing", "session_id or model")

    async def _score_session(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        session = self._sequences.session(request.session_id)
        model = self._sequences.model_of(session)
        convert.check_token_model(model, "session_id", "Score")
        tokens = convert.inputs_from(request.inputs, model, self._max_inputs)
        position = request.position if request.HasField("position") else None
        job, replayed = self._sequences.score(session, position, tokens)
        return convert.score_to(await job.wait(), request.per_token, replayed)

    async def _score_model(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        model = self._sequences.registry.get(request.model.name, request.model.version, field="model.name")
        convert.check_token_model(model, "model.name", "Score")
        if request.HasField("position"):
            raise InvalidArgumentError("position", str(request.position), "none: no session is named")
        tokens = convert.inputs_from(request.inputs, model, self._max_inputs)
        scores = await self._sequences.score_alone(model, tokens)
        return convert.score_to(scores, request.per_token, replayed=False)

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        session = self._sequences.session(request.session_id)
        return pb.DescribeResponse(session=convert.session_to(session))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        after, size = convert.page_from(request, PAGE_SIZE, MAX_PAGE_SIZE)
        sessions, more, total = self._sequences.page(after, size, request.model)
        return pb.ListResponse(
            sessions=[convert.session_to(session) for session in sessions],
            next_page_token=str(sessions[-1].serial) if more else "",
            total=total,
        )

    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseResponse:
        return pb.CloseResponse(position=self._sequences.close(request.session_id))


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """keepgate.v1.Models."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences

    async def List(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        count = self._sequences.table.count
        return models_pb2.ListModelsResponse(
            models=[model_to(model, count(model.key)) for model in self._sequences.registry]
        )

    async def Describe(
        self, request: models_pb2.DescribeModelRequest, context: Context
    ) -> models_pb2.DescribeModelResponse:
        model = self._sequences.registry.get(request.name, request.version, field="name")
        sessions = self._sequences.table.count(model.key)
        return models_pb2.DescribeModelResponse(model=model_to(model, sessions))
