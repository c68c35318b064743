"""The servicers of keepgate.v1: convert, call, convert. Domain errors are mapped by the
interceptor."""

# ruff: noqa: N802 (the proto names the methods)

from __future__ import annotations

from typing import Any

import grpc
from keepgate_protos.v1 import models_pb2, models_pb2_grpc, sequences_pb2_grpc
from keepgate_protos.v1 import sequences_pb2 as pb

from keepgate import moves
from keepgate.errors import InvalidArgumentError
from keepgate.rpc import convert
from keepgate.rpc.describe import describe
from keepgate.rpc.frames import FrameStream
from keepgate.rpc.sessions import durability_from, session_to, state_from, ttl_from
from keepgate.rpc.stream import StepStream
from keepgate.sequences import Sequences
from keepgate.sessions.session import ModelKey

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class SequencesServicer(sequences_pb2_grpc.SequencesServicer):
    """keepgate.v1.Sequences."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self._max_inputs = sequences.settings.max_inputs_per_request
        self._max_tokens = sequences.settings.max_generated_tokens
        self._has_store = bool(sequences.settings.store)

    async def Open(self, request: pb.OpenRequest, context: Context) -> pb.OpenResponse:
        model = self._sequences.registry.get(request.model, request.version)
        session = await self._sequences.open(
            model,
            request.session_id,
            ttl=ttl_from(request),
            durability=durability_from(request.durability, self._has_store),
            state=state_from(request.initial_state, model),
        )
        return pb.OpenResponse(session=session_to(session))

    async def Step(self, request: pb.StepRequest, context: Context) -> pb.StepResponse:
        sequences = self._sequences
        sequences.callers += 1
        try:
            session = await sequences.find(request.session_id)
            model = sequences.model_of(session)
            step = convert.step_from(request, model, self._max_inputs)
            job, replayed = sequences.step(session, *step)
            reply = job.reply if job.settled else None
            return convert.step_to(reply or await job.wait(), replayed, model)
        finally:
            sequences.callers -= 1

    async def Stream(self, requests: Any, context: Context) -> None:
        await StepStream(self._sequences, context).run()

    async def StreamFrames(self, requests: Any, context: Context) -> None:
        await FrameStream(self._sequences, context).run()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        session = await self._sequences.find(request.session_id)
        model = self._sequences.model_of(session)
        parts = convert.generation_from(request, model, self._max_inputs, self._max_tokens)
        generation = await self._sequences.generate(session, *parts)
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
        session = await self._sequences.find(request.session_id)
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
        session = await self._sequences.find(request.session_id)
        history = await self._sequences.residents(session.model).recall(session)
        return pb.DescribeResponse(session=session_to(session, history.oldest))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        after, size = convert.page_from(request, PAGE_SIZE, MAX_PAGE_SIZE)
        sessions, more, total = self._sequences.page(after, size, request.model)
        return pb.ListResponse(
            sessions=[session_to(session) for session in sessions],
            next_page_token=str(sessions[-1].serial) if more else "",
            total=total,
        )

    async def Close(self, request: pb.CloseRequest, context: Context) -> pb.CloseResponse:
        session = await self._sequences.find(request.session_id)
        return pb.CloseResponse(position=await self._sequences.close(session))

    async def Fork(self, request: pb.ForkRequest, context: Context) -> pb.ForkResponse:
        session = await self._sequences.find(request.session_id)
        twin = await moves.fork(
            self._sequences,
            session,
            request.fork_id,
            ttl=ttl_from(request),
            durability=durability_from(request.durability, self._has_store),
        )
        return pb.ForkResponse(session=session_to(twin))

    async def Rewind(self, request: pb.RewindRequest, context: Context) -> pb.RewindResponse:
        session = await self._sequences.find(request.session_id)
        await moves.rewind(self._sequences, session, request.position)
        return pb.RewindResponse(session=session_to(session))

    async def Export(self, request: pb.ExportRequest, context: Context) -> pb.ExportResponse:
        session = await self._sequences.find(request.session_id)
        position = session.position
        return pb.ExportResponse(blob=await moves.export(self._sequences, session), position=position)

    async def Import(self, request: pb.ImportRequest, context: Context) -> pb.ImportResponse:
        registry = self._sequences.registry
        session = await moves.import_session(
            self._sequences,
            registry.get(request.model, request.version) if request.model else None,
            request.blob,
            request.session_id,
            ttl=ttl_from(request),
            durability=durability_from(request.durability, self._has_store),
        )
        return pb.ImportResponse(session=session_to(session))


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """keepgate.v1.Models."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences

    async def List(
        self, request: models_pb2.ListModelsRequest, context: Context
    ) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(
            models=[describe(model, self._sequences) for model in self._sequences.registry]
        )

    async def Describe(
        self, request: models_pb2.DescribeModelRequest, context: Context
    ) -> models_pb2.DescribeModelResponse:
        registry = self._sequences.registry
        model = registry.find(ModelKey(request.name, request.version))  # retired or not
        model = model or registry.get(request.name, request.version, field="name")
        return models_pb2.DescribeModelResponse(model=describe(model, self._sequences))
