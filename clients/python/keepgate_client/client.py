"""The synchronous client. `aio` has the same names for asyncio; what both do is in `_plans`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import grpc
from numpy.typing import ArrayLike

from keepgate_client import _convert, _plans, _rpc
from keepgate_client._access import TLS, Access
from keepgate_client._io import IO
from keepgate_client._retry import RetryPolicy
from keepgate_client._session import SessionBase
from keepgate_client.group import Group
from keepgate_client.session import Session
from keepgate_client.stream import Stream
from keepgate_client.types import DurabilityName, LayerState, ModelInfo, Score, SessionInfo

DEFAULT_TARGET = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 30.0
"""Seconds that a call may take, retries included, where none are given."""


class Client:
    """A connection to a Keepgate server. Safe to share between threads; close it when done.

    target: address, as "127.0.0.1:8001" or "dns:///keepgate.example:8001".
    timeout: seconds a call may take by default, all its attempts together.
    retry: how requests that are safe to repeat are repeated.
    tls: encrypt the connection; True trusts the roots that gRPC brings, `TLS` names others.
    token: shows the server who calls. Without TLS it is sent to this machine alone, unless
        allow_plaintext_token says otherwise.
    credentials: gRPC credentials of your own, in place of `tls`.
    options: further gRPC channel options.

    No connection is made before the first call. Raises ValueError if the arguments do not go together,
    OSError if a file of `tls` cannot be read.

        with Client("127.0.0.1:8001") as client:
            with client.open("shakespeare-lstm") as session:
                print(session.step(text="To be").text)
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: TLS | bool = False,
        token: str | None = None,
        allow_plaintext_token: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        self.target = target
        self._plans = _plans.Plans(timeout, retry or RetryPolicy())
        access = Access(target, tls, credentials, token, allow_plaintext_token)
        arguments = _rpc.channel_options(options)
        self._channel = access.channel(grpc.insecure_channel, grpc.secure_channel, arguments)
        self._io = IO(self._channel, target, access.metadata)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Sessions stay open on the server until closed or expired."""
        self._channel.close()

    def open(
        self,
        model: str,
        version: str = "",
        session_id: str = "",
        idle_ttl: float | timedelta | None = None,
        *,
        durability: DurabilityName | None = None,
        initial_state: Iterable[LayerState] = (),
        timeout: float | None = None,
    ) -> Session:
        """Start a session at position 0. As a context manager it closes itself.

        version: empty means the newest one loaded.
        session_id: 1 to 128 characters of [A-Za-z0-9._~-]; empty draws 128 random bits.
        idle_ttl: seconds or timedelta that the session outlives its last request; None means the
            server's default.
        durability: what survives a server that is killed: "none", "everysec" (all but at most the last
            second, and what is lost is reported) or "always" (every step that was answered). None means the
            server's default; all but "none" need a server with a store.
        initial_state: one entry a layer, the first layer first, as `Prediction.state` has them; zeros if
            empty. So the final state of an encoder can start a decoder.

        Raises ModelNotFoundError, SessionExistsError, SessionsExhaustedError, InvalidArgumentError,
        StoreUnavailableError, TransportError. With a session_id of your own, SessionExistsError may also
        mean that the answer to this very call was lost; `attach` takes the session up.

            with client.open("shakespeare-gru", idle_ttl=60) as session:
                ...
        """
        new = _plans.NewSession.of(session_id, idle_ttl, durability)
        plan = self._plans.open(model, version, new, initial_state, timeout)
        return Session(self._io, self._plans, self._io.run(plan))

    def import_session(
        self,
        blob: bytes,
        model: str = "",
        version: str = "",
        session_id: str = "",
        idle_ttl: float | timedelta | None = None,
        *,
        durability: DurabilityName | None = None,
        timeout: float | None = None,
    ) -> Session:
        """Start a session that goes on where an exported one was, on any server with the same weights.

        blob: what `Session.export` returned.
        model, version: empty means whichever has the weights of the session exported.
        session_id, idle_ttl, durability: as for `open`.

        Raises InvalidArgumentError if the blob is damaged or of other weights, and as `open`.

            session = client.import_session(Path("conversation.keepgate").read_bytes())
        """
        new = _plans.NewSession.of(session_id, idle_ttl, durability)
        plan = self._plans.import_session(blob, model, version, new, timeout)
        return Session(self._io, self._plans, self._io.run(plan))

    def attach(self, session_id: str, *, timeout: float | None = None) -> Session:
        """Take up an open session at the server's position, as after a restart of this program.

        Raises SessionGoneError, SessionModelError, SessionElsewhereError, TransportError.

            session = client.attach("conversation-17")
        """
        state = self._io.run(self._plans.attach(session_id, timeout))
        return Session(self._io, self._plans, state)

    def stream(self, *, window: int = 1) -> Stream:
        """One bidirectional call for the steps of many sessions; see `Stream`.

        with client.stream() as stream:
            futures = [stream.step(session, text="a") for session in sessions]
            predictions = [future.result() for future in futures]
        """
        return Stream(self._io, self._plans, window)

    def group(
        self,
        sessions: Iterable[SessionBase | str],
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seeds: ArrayLike = 0,
    ) -> Group:
        """One call for frames of many sessions, an input for each; see `Group`.

        sessions: session objects of this client or ids of open sessions, of one model version, each once. A
            frame has at most 4,096 of them: `step` takes rows.
        temperature, top_k, top_p: as for `Session.step`.
        seeds: one for all sessions, or integers [B], one for each.

        Entering it binds the sessions. Raises ValueError; entering also SessionBusyError,
        InvalidArgumentError, TransportError.

            with client.group(sessions, temperature=0.8, seeds=range(len(sessions))) as group:
                frame = group.step(tokens=tokens).result()
        """
        options = _convert.StepOptions(temperature, top_k, top_p)
        return Group(self._io, self._plans, sessions, options, seeds)

    def sessions(
        self, model: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> Iterator[SessionInfo]:
        """All open sessions in order of creation, fetched page by page; `timeout` is for each page.

        for info in client.sessions(model="shakespeare-lstm"):
            print(info.session_id, info.position)
        """
        token = ""
        while True:
            plan = self._plans.sessions_page(model, page_size, token, timeout)
            page, token = self._io.run(plan)
            yield from page
            if not token:
                return

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every loaded model and version, by name and version."""
        return self._io.run(self._plans.models(timeout))

    def model(self, name: str, version: str = "", *, timeout: float | None = None) -> ModelInfo:
        """One loaded model; an empty version means the newest. Raises ModelNotFoundError."""
        return self._io.run(self._plans.model(name, version, timeout))

    def score(
        self,
        model: str,
        *,
        text: str | None = None,
        tokens: _convert.Tokens | None = None,
        version: str = "",
        per_token: bool = False,
        timeout: float | None = None,
    ) -> Score:
        """Log-likelihood of a sequence from a zero state; keeps nothing on the server.

        Raises ModelNotFoundError, InvalidArgumentError, StepsExhaustedError, TransportError.

            client.score("shakespeare-gru", text="To be, or not to be").bits_per_token
        """
        inputs = _convert.inputs_to_proto(tokens, text)
        return self._io.run(self._plans.score_model(model, version, inputs, per_token, timeout))
