"""Many sessions stepped together, for asyncio."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepgate_client import _convert, _plans
from keepgate_client._aio_driver import AsyncDriver
from keepgate_client._frames import NO_INPUTS, Frame, FrameInputs, row_indices
from keepgate_client._group import GroupCore
from keepgate_client._io import AsyncIO
from keepgate_client._members import Members
from keepgate_client._session import SessionBase


class AsyncGroup(AsyncDriver[Frame]):
    """`Group` for asyncio: `step` returns a future at once; await it now or later."""

    def __init__(
        self,
        io: AsyncIO,
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

    async def __aenter__(self) -> Self:
        try:
            await self._submit(np.array([], np.int64), NO_INPUTS, False, None)
        except BaseException:
            await self.close()
            raise
        return self

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._members)

    @property
    def positions(self) -> NDArray[np.uint64]:
        """As `Group.positions`."""
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
        """Queue a frame and return its future; as `Group.step`.

        frame = await group.step(tokens=frame.tokens)
        """
        indices = row_indices(rows)
        count = len(self) if indices is None else len(indices)
        return self._submit(indices, FrameInputs.of(tokens, features, count), log_probabilities, timeout)

    async def close(self) -> None:
        """As `Group.close`."""
        await super().close()
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
