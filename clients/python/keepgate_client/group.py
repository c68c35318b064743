"""Many sessions stepped together, synchronously: a frame has one input for each."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepgate_client import _convert, _plans
from keepgate_client._driver import Driver
from keepgate_client._frames import NO_INPUTS, Frame, FrameInputs, row_indices
from keepgate_client._group import GroupCore
from keepgate_client._io import IO
from keepgate_client._members import Members
from keepgate_client._session import SessionBase


class Group(Driver[Frame]):
    """Sessions of one model version, stepped together over one call. Made by Client.group.

    The group knows the positions of its sessions and sends them with every frame. So a call that breaks is
    opened again, the sessions are bound again, and what has no answer is sent again: each input is applied
    once. Rows that the server refuses for now are sent again as the client's RetryPolicy says, until the
    frame's timeout.

    A session that cannot be bound, or has ended, has an error in every frame with its row; the other rows
    are good. Where waiting may help it is bound again with the next frame that needs it, else when the call
    is opened again.

    Till the group is closed, no other call may step the sessions: SessionInUseError. Other calls of the
    session objects that were given raise SessionBusyError; their positions are those of the group. Safe to
    share by threads. At the end of a `with` block the group waits for all answers.
    """

    def __init__(
        self,
        io: IO,
        plans: _plans.Plans,
        sessions: Iterable[SessionBase | str],
        options: _convert.StepOptions,
        seeds: ArrayLike,
    ) -> None:
        self._members = Members(sessions, options, seeds)
        core: GroupCore[Future[Frame]] = GroupCore(self._members, plans.retry)
        super().__init__(io, core, io.frames, "group")
        self._plans = plans
        self._core = core

    def __enter__(self) -> Self:
        try:
            self._submit(np.array([], np.int64), NO_INPUTS, False, None).result()
        except BaseException:
            self.close()
            raise
        return self

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._members)

    @property
    def positions(self) -> NDArray[np.uint64]:
        """uint64 [B]: inputs applied so far to each session, as far as answers tell.

        Those of sessions given by their id are known once the `with` block is entered, or a frame answered.
        """
        with self._changed:
            return self._members.positions.copy()

    def step(
        self,
        *,
        tokens: ArrayLike | None = None,
        features: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        log_probabilities: bool = False,
        timeout: float | None = None,
    ) -> Future[Frame]:
        """Apply one input to each session and return at once.

        tokens, features: exactly one of them. Tokens are integers [B]; features numbers [B, K].
        rows: integers [B], which sessions, counted from 0 in the order in which they were given; each once.
            None means all of them.
        log_probabilities: whether to return those of the drawn tokens.

        Frames of different rows may be under way together. The future raises what concerns the whole frame:
        InvalidArgumentError for an input that the model does not take, in which case nothing was applied,
        TransportError if no row was answered, StepsExhaustedError, DrainingError. What concerns a row is in
        `Frame.errors`, as PositionMismatchError, StepsLostError or SessionGoneError. After any of them the
        same inputs may be sent again for the rows that have no answer. After StepsLostError the row stands
        where the server has got. A future cannot be cancelled: the frame may be on its way.

        Raises TypeError, ValueError for inputs or rows that do not fit, and for a row whose last frame is not
        answered; SessionBusyError if another call runs on a session object, CallCancelledError if the group
        is closed.

            frame = group.step(tokens=frame.tokens).result()
        """
        indices = row_indices(rows)
        count = len(self) if indices is None else len(indices)
        return self._submit(indices, FrameInputs.of(tokens, features, count), log_probabilities, timeout)

    def close(self) -> None:
        """End the call. Frames without an answer raise CallCancelledError and may be applied or not.

        The session objects are free then, at the positions that the answers told.
        """
        super().close()
        with self._changed:
            self._members.release()

    def _submit(
        self,
        rows: NDArray[np.int64] | None,
        inputs: FrameInputs,
        log_probabilities: bool,
        timeout: float | None,
    ) -> Future[Frame]:
        def queue(future: Future[Frame], deadline: float) -> None:
            self._members.acquire()
            self._core.submit(rows, inputs, log_probabilities, future, deadline)

        return self._queue(self._plans.timeout if timeout is None else timeout, queue)
