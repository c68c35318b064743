"""A session of the synchronous client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc
from keepgate_protos.v1.sequences_pb2 import GenerateRequest
from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans, errors
from keepgate_client._generation import Generation, generate_request
from keepgate_client._io import IO
from keepgate_client._loops import Loop, Loops
from keepgate_client._session import SessionBase, SessionState, closing
from keepgate_client.stream import Stream
from keepgate_client.types import DurabilityName, Prediction, Score, SessionInfo, Token


class Session(SessionBase):
    """One sequence on the server: a model, its state and a position. Made by Client.open and attach.

    The session knows its position and sends it with every step. So every step is applied once, however
    often it has to be sent: when a connection breaks, the client connects again and repeats the very
    same request. One call at a time; a second one raises SessionBusyError.

    A loop over `generate` or `stream` that was left early may still be in use: while something refers
    to its generator, other calls raise SessionBusyError or SessionInUseError. `close`, `resync`, `rewind`
    and the end of the `with` block end it first.

    As a context manager it closes the session on the server at the end of the block. Without `with`,
    the session stays open until `close()` or its idle_ttl.
    """

    def __init__(self, io: IO, plans: _plans.Plans, state: SessionState) -> None:
        self._io = io
        self._plans = plans
        self._state = state
        self._loops = Loops()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with closing(error):
            self.close()

    def step(
        self,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        features: ArrayLike | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        top: int = 0,
        logits: bool = False,
        hidden: bool = False,
        state: bool = False,
        timeout: float | None = None,
    ) -> Prediction:
        """Apply one or more inputs and predict what comes next. Safe to call again after any error.

        text, tokens, features: exactly one of them. Tokens are an id or ids [T]; features float32 [K] or
            [T, K].
        temperature, top_k, top_p, seed: how the token is drawn; temperature 0 takes the most probable.
        top: how many of the most probable tokens to return.
        logits, hidden: whether to return them.
        state: whether to return the whole recurrent state, which another session may begin with.

        Raises InvalidArgumentError, PositionMismatchError, StepMismatchError, StepsLostError,
        SessionGoneError, SessionInUseError, StepsExhaustedError, StoreUnavailableError, DrainingError,
        TransportError. After StepsLostError the session stands where the server has got: send the inputs
        again that came after its position.

            session.step(tokens=17, top=5).top
            session.step(features=[0.1, 0.2]).outputs
        """
        options = _convert.StepOptions(temperature, top_k, top_p, seed, top, logits, hidden, state)
        inputs = _convert.StepInputs.of(tokens, text, features)
        request = inputs.request(self.session_id, options)
        return self._io.run(self._plans.step(self._state, request, timeout))

    def generate(
        self,
        prompt: str | _convert.Tokens | None = None,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        stop_tokens: Iterable[int] = (),
        coalesce: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Token]:
        """Apply a prompt, then feed each drawn token back as the next input; yields tokens as they come.

        prompt: text, a token id or ids. None goes on where the last generation ended.
        max_tokens: tokens drawn at most.
        stop_tokens: ids that end the generation; the one drawn is yielded.
        coalesce: tokens a message carries at most; more of them cost less and come in bursts.
        timeout: seconds for the whole generation. None bounds only the silence between tokens, by the
            client's timeout.

        The last token is drawn but not applied: it is the prompt of what follows. A broken connection
        is mended unseen. Leaving the loop early cancels the generation, and the server may have applied
        tokens beyond the last one yielded; the next step then raises PositionMismatchError or
        StepMismatchError rather than go on from a state you have not seen. `resync` accepts that state.

        Raises as `step`, while iterating.

            for token in session.generate("ROMEO:", max_tokens=200, temperature=0.8, seed=7):
                print(token.text, end="", flush=True)
        """
        options = _convert.StepOptions(temperature, top_k, top_p, seed)
        request = generate_request(self._state, prompt, options, max_tokens, tuple(stop_tokens), coalesce)
        return self._loops.start(lambda loop: self._generated(loop, request, timeout))

    def _generated(
        self, loop: Loop, request: GenerateRequest, timeout: float | None
    ) -> Generator[Token, None, None]:
        with loop, self._state.used_by("generate"):
            generation = Generation(self._plans, self._state, request, timeout)
            while not generation.finished:
                wish = generation.call()
                call = self._io.generate(wish.request, timeout=wish.timeout)
                try:
                    for response in call:
                        for token in generation.receive(response):
                            yield generation.hand_out(token)
                    generation.ended()
                    continue
                except grpc.RpcError as failure:
                    error = self._io.error(failure)
                except errors.UnreachableError as ended:
                    error = ended
                finally:
                    call.cancel()
                time.sleep(generation.failed(error))

    def score(
        self,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        per_token: bool = False,
        timeout: float | None = None,
    ) -> Score:
        """Apply tokens like `step` and return their log-likelihood given all inputs before them.

        per_token: also return each scored token's log-probability. Raises as `step`.

            session.score(text="the question").bits_per_token
        """
        inputs = _convert.inputs_to_proto(tokens, text)
        return self._io.run(self._plans.score(self._state, inputs, per_token, timeout))

    def stream(
        self,
        *,
        text: Iterable[str] | None = None,
        tokens: Iterable[_convert.Tokens] | None = None,
        features: Iterable[ArrayLike] | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        top: int = 0,
        logits: bool = False,
        hidden: bool = False,
        state: bool = False,
        window: int = 1,
        timeout: float | None = None,
    ) -> Iterator[Prediction]:
        """Step through many inputs over one call; yields their predictions in order.

        text, tokens, features: exactly one of them; each item is one step, as `step` takes it. So the
            characters of a str, the ids of a list, the rows of an array [T, K] are a step each.
        window: inputs read and sent ahead of their answers at most. With 1 each prediction is yielded
            before the next input is read. More hides the network's latency. A connection that breaks
            loses nothing, as long as the server retains so many steps of a session.
        timeout: seconds for each step.

        Leaving the loop early waits for the steps sent ahead; the session's position counts them.

        Raises as `step`, while iterating.

            for prediction in session.stream(features=series):
                print(prediction.outputs)
        """
        options = _convert.StepOptions(temperature, top_k, top_p, seed, top, logits, hidden, state)
        items, convert = _convert.step_items(tokens, text, features)
        inputs = map(convert, items)
        return self._loops.start(lambda loop: self._streamed(loop, inputs, options, window, timeout))

    def _streamed(
        self,
        loop: Loop,
        items: Iterator[_convert.StepInputs],
        options: _convert.StepOptions,
        window: int,
        timeout: float | None,
    ) -> Generator[Prediction, None, None]:
        pending: deque[Future[Prediction]] = deque()
        with loop, Stream(self._io, self._plans, window) as stream:
            try:
                for item in items:
                    pending.append(stream.submit(self._state, item, options, timeout))
                    while pending and (len(pending) >= window or pending[0].done()):
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except GeneratorExit:
                stream.flush()  # so that the position counts the steps sent ahead
                raise

    def describe(self, *, timeout: float | None = None) -> SessionInfo:
        """What the server knows of the session. Raises SessionGoneError, TransportError."""
        return self._io.run(self._plans.describe(self.session_id, timeout))

    def resync(self, *, timeout: float | None = None) -> SessionInfo:
        """Take over the server's position, as after a generation that was left early, and end that."""
        self._loops.end()
        return self._io.run(self._plans.resync(self._state, timeout))

    def fork(
        self,
        session_id: str = "",
        idle_ttl: float | timedelta | None = None,
        *,
        durability: DurabilityName | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Start a session with this one's state and history; both go on independently.

        session_id: as for `Client.open`. idle_ttl, durability: None means those of this session.

        Costs no computation. Raises SessionExistsError, SessionsExhaustedError, SessionGoneError,
        WorkInFlightError, StoreUnavailableError, TransportError.

            with session.fork() as twin:
                print("".join(token.text for token in twin.generate("What if ", max_tokens=40)))
        """
        new = _plans.NewSession.of(session_id, idle_ttl, durability)
        return Session(self._io, self._plans, self._io.run(self._plans.fork(self._state, new, timeout)))

    def rewind(self, position: int, *, timeout: float | None = None) -> SessionInfo:
        """Take the session back to a position that it retains; what came after it never was.

        Ends a generation or stream that still runs. Raises NotRetainedError, SessionGoneError,
        WorkInFlightError, StoreUnavailableError, TransportError.

            before = session.position
            session.step(text="a wrong turn")
            session.rewind(before)
        """
        self._loops.end()
        return self._io.run(self._plans.rewind(self._state, position, timeout))

    def export(self, *, timeout: float | None = None) -> bytes:
        """The session as bytes that `Client.import_session` takes on any server with the same weights.

        The session goes on. The bytes have its state and position, not the history: an imported session
        cannot be rewound to before its import. Raises SessionGoneError, WorkInFlightError,
        StoreUnavailableError, TransportError.
        """
        return self._io.run(self._plans.export(self._state, timeout))

    def close(self, *, timeout: float | None = None) -> int:
        """End the session and free its state; returns its last position. Raises SessionGoneError.

        A generation or stream that still runs is cancelled.
        """
        self._loops.end()
        return self._io.run(self._plans.close(self._state, timeout))
