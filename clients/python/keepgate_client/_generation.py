"""One generation over as many calls as it takes. No I/O: sync and asyncio clients share it."""

from __future__ import annotations

from grpc import StatusCode
from keepgate_protos.v1 import sequences_pb2

from keepgate_client import _convert, _rpc, errors, types
from keepgate_client._plans import Deadline, Plans
from keepgate_client._session import SessionState
from keepgate_client._wishes import Call


class Generation:
    """Which call to make next and which of its tokens are new.

    A call that breaks is repeated as it was: the server streams the same tokens from the first, and
    those handed out already are skipped. The session's position follows the tokens handed out. If the
    generation fails for good, the position is back at its start, where the same generation may be
    asked for again; after lost steps it is where the server has got.

    A call's own deadline is the client's default timeout. It bounds silence, not the generation: a call
    that brought a new token before its deadline is repeated like a broken one.
    """

    def __init__(
        self,
        plans: Plans,
        state: SessionState,
        request: sequences_pb2.GenerateRequest,
        timeout: float | None,
    ) -> None:
        request.position = state.position
        self.finished = False
        self._plans = plans
        self._state = state
        self._request = request
        self._deadline = None if timeout is None else Deadline(timeout)
        self._start = state.position
        self._handed_out = 0
        self._received = 0
        self._failures = 0
        self._progress = False

    def call(self) -> Call:
        """The call to make, from the first token."""
        self._received = 0
        self._progress = False
        timeout = self._plans.timeout
        if self._deadline is not None:
            timeout = min(timeout, self._deadline.left())
        return Call(_rpc.GENERATE, self._request, timeout)

    def receive(self, response: sequences_pb2.GenerateResponse) -> list[types.Token]:
        """The new tokens of one message."""
        tokens = _convert.tokens_from_proto(response)
        skip = max(0, min(self._handed_out - self._received, len(tokens)))
        self._received += len(tokens)
        new = tokens[skip:]
        if new:
            self._progress = True
            self._failures = 0
        self.finished = response.finish_reason != sequences_pb2.FINISH_REASON_UNSPECIFIED
        return new

    def hand_out(self, token: types.Token) -> types.Token:
        """Note that the user gets this token now."""
        self._handed_out += 1
        self._state.moved(token.position, pending=token.token)
        return token

    def ended(self) -> None:
        """The server ended the call without a failure. Raises if it was not through."""
        if not self.finished:
            raise errors.UnreachableError(
                "the server ended a generation before its last token", code=StatusCode.UNAVAILABLE
            )

    def failed(self, error: errors.KeepgateError) -> float:
        """Seconds to wait before `call` again. Raises the error if waiting does not help."""
        self._failures += 1
        delay = self._plans.retry.delay(self._failures, error)
        if isinstance(error, errors.DeadlineExceededError) and self._progress:
            delay = 0.0
        if delay is None or not (self._deadline is None or self._deadline.allows(delay)):
            self._state.moved(self._start)
            if isinstance(error, errors.StepsLostError):
                self._state.lost(error)
            raise error
        return delay


def generate_request(
    state: SessionState,
    prompt: str | _convert.Tokens | None,
    options: _convert.StepOptions,
    max_tokens: int,
    stop_tokens: tuple[int, ...],
    coalesce: int,
) -> sequences_pb2.GenerateRequest:
    """The request of a generation; prompt None goes on from the last generated token.

    Raises ValueError if prompt is None and nothing was generated just before.
    """
    if prompt is None:
        if state.pending is None:
            raise ValueError(
                f"prompt: session {state.session_id!r} has no generation to go on with, so expected "
                "text or token ids"
            )
        prompt = state.pending
    return sequences_pb2.GenerateRequest(
        session_id=state.session_id,
        prompt=_convert.prompt_to_proto(prompt),
        sampling=options.sampling(),
        max_tokens=_convert.unsigned("max_tokens", max_tokens, 32),
        stop_tokens=[_convert.unsigned("stop_tokens", token, 32) for token in stop_tokens],
        coalesce=_convert.unsigned("coalesce", coalesce, 32),
    )
