"""One inference: a request becomes jobs, and their predictions a response. Both ways of calling use this."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from keepgate_protos.oip import grpc_service_pb2 as pb
from numpy.typing import NDArray

from keepgate.directory import Outcome
from keepgate.engine.job import Job, Prediction
from keepgate.errors import (
    DrainingError,
    InvalidArgumentError,
    ModelNotFoundError,
    RequestError,
    SequenceNotStartedError,
    SessionGoneError,
    SessionModelError,
)
from keepgate.models.registry import LoadedModel, Registry
from keepgate.replay import run_from
from keepgate.request import Options
from keepgate.rpc.oip import tensors
from keepgate.rpc.oip.names import session_id_of
from keepgate.rpc.oip.parameters import Parameters, parameters_from
from keepgate.rpc.oip.tensors import Tensor
from keepgate.security.principal import caller
from keepgate.sequences import Sequences
from keepgate.sessions.session import Session

MICROSECOND = 1e-6
MAX_ANSWER_BYTES = 64 << 20
"""Largest response to a request without a sequence: logits of a long text may be many times the text."""


class Admitted(NamedTuple):
    """What was admitted will be done, whoever stops waiting. jobs: settled in order, one for each prediction
    of the response. session_id: "" without a sequence."""

    request_id: str
    model: LoadedModel
    outputs: list[Tensor]
    jobs: list[Job]
    replayed: bool
    session_id: str

    def response(self) -> pb.ModelInferResponse:
        """Once the last job is settled. Raises what ended the jobs."""
        response = pb.ModelInferResponse(
            model_name=self.model.key.name, model_version=self.model.key.version, id=self.request_id
        )
        predictions = [_prediction(job) for job in self.jobs]
        tensors.write(response, self.outputs, predictions)
        if self.session_id:
            parameters = response.parameters
            parameters["keepgate_position"].int64_param = predictions[-1].position
            parameters["keepgate_replayed"].bool_param = self.replayed
            parameters["keepgate_session"].string_param = self.session_id
        return response


class Inference:
    """Requests of inference on the sessions of a server."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self._limit = sequences.settings.max_inputs_per_request

    async def run(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Raises as `admit`, and what ended the computation."""
        admitted = await self.admit(request, parameters_from(request))
        await admitted.jobs[-1].wait()
        return admitted.response()

    async def admit(self, request: pb.ModelInferRequest, parameters: Parameters) -> Admitted:
        """Take a request. Those of one sequence are done in the order in which they were admitted.

        Raises RequestError; then nothing of the request is applied. A START that is refused leaves the live
        sequence as it is, unless the store fails or a drain begins in the middle of it: then that is over.
        """
        deadline = time.perf_counter() + parameters.timeout * MICROSECOND if parameters.timeout else 0.0
        if not parameters.sequence:
            return self._alone(request, parameters, deadline)
        session_id = session_id_of(request.model_name, parameters.sequence, caller())
        if parameters.start:
            model = find_model(self._sequences.registry, request.model_name, request.model_version)
            inputs, outputs, options = self._parts(request, parameters, model)
            with self._sequences.pending.reserved(len(inputs)):
                session = await self._restart(session_id, model)
        else:
            session, model = await self._live(request, parameters, session_id)
            inputs, outputs, options = self._parts(request, parameters, model)
        try:
            job, replayed = self._sequences.step(
                session, parameters.position, inputs, options, deadline=deadline
            )
        except RequestError:
            if parameters.start:  # else the next step would go on from a zero state
                self._sequences.lose(session)
            raise
        if parameters.end:
            await self._sequences.close(session)
        return Admitted(request.id, model, outputs, [job], replayed, session_id)

    def _parts(
        self, request: pb.ModelInferRequest, parameters: Parameters, model: LoadedModel
    ) -> tuple[NDArray[Any], list[Tensor], Options]:
        inputs = tensors.inputs_from(request, model, self._limit)
        outputs = tensors.outputs_from(request, model)
        return inputs, outputs, Options(parameters.sampling_of(model), tensors.wants_of(outputs))

    def _alone(self, request: pb.ModelInferRequest, parameters: Parameters, deadline: float) -> Admitted:
        """Run a whole sequence from a zero state, and keep nothing. A prediction after each input, or after
        the last alone."""
        model = find_model(self._sequences.registry, request.model_name, request.model_version)
        if self._sequences.draining.is_set():
            raise DrainingError
        inputs, outputs, options = self._parts(request, parameters, model)
        count = 1 if parameters.last_only else len(inputs)
        size = count * tensors.row_bytes(outputs)
        if size > MAX_ANSWER_BYTES:
            raise InvalidArgumentError(
                "inputs[0].shape",
                f"{len(inputs)} inputs, whose outputs take {size} bytes",
                f"at most {MAX_ANSWER_BYTES}: fewer inputs, fewer outputs, or keepgate_last_only",
            )
        each = len(inputs) // count
        jobs = [Job(inputs[at : at + each], at, options=options) for at in range(0, len(inputs), each)]
        jobs[0].deadline = deadline
        pending = self._sequences.pending
        pending.check(len(inputs))
        pending.add(len(inputs))
        jobs[-1].when_done(lambda _: pending.drop(len(inputs)))
        run_from(self._sequences.residents(model.key), None, jobs)
        return Admitted(request.id, model, outputs, jobs, False, "")

    async def _restart(self, session_id: str, model: LoadedModel) -> Session[Outcome]:
        """A new session; one that has the id is ended, and what is in flight of it is still answered."""
        sequences = self._sequences
        if sequences.draining.is_set():
            raise DrainingError  # and let the live one be
        sequences.keeper.check_usable(sequences.settings.durability)
        try:
            session = await sequences.find(session_id)
        except SessionModelError:  # it could not go on anyhow
            sequences.keeper.end_stranded(session_id)
        except SessionGoneError:
            pass
        else:
            await sequences.close(session)
        return await sequences.open(model, session_id, of_oip=True)

    async def _live(
        self, request: pb.ModelInferRequest, parameters: Parameters, session_id: str
    ) -> tuple[Session[Outcome], LoadedModel]:
        """The session of a sequence that goes on, and the model that it is pinned to."""
        if not self._is_known(request.model_name):
            find_model(self._sequences.registry, request.model_name, request.model_version)
        try:
            session = await self._sequences.find(session_id)
        except SessionGoneError as error:
            raise SequenceNotStartedError(parameters.sequence, request.model_name, error) from error
        version = request.model_version
        if version and version != session.model.version:
            raise InvalidArgumentError(
                "model_version",
                repr(version[:100]),
                f"{session.model.version!r}, which the sequence began on",
            )
        return session, self._sequences.model_of(session)

    def _is_known(self, name: str) -> bool:
        """Whether a model is loaded, retired or not."""
        return any(model.key.name == name for model in self._sequences.registry)


def find_model(registry: Registry, name: str, version: str, field: str = "model_name") -> LoadedModel:
    """A model that takes new sequences. Raises InvalidArgumentError, ModelNotFoundError."""
    try:
        return registry.get(name, version, field=field)
    except ModelNotFoundError as error:
        # Clients of Triton look for these words.
        fault = "is not found (Request for unknown model); loaded"
        raise ModelNotFoundError(error.model, error.version, error.loaded, fault) from error


def _prediction(job: Job) -> Prediction:
    if job.error is not None:
        raise job.error.with_traceback(None)
    if not isinstance(job.reply, Prediction):
        raise TypeError(f"expected a prediction, got {type(job.reply).__name__}")
    return job.reply
