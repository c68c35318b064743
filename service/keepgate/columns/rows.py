"""Which sessions a frame is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Rows:
    """handles: int64 [B], each once, in the order of a frame's rows. A client sends the same ones again.

    index: what selects them in arrays by handle: a slice if they follow each other, else the handles. frames:
    how many there were. The rest holds for as long as `version` is the ledger's. ready: whether the state of
    every session can be counted on; then records are their lanes. durable: whether a store is to know of one.
    """

    __slots__ = ("_parts", "durable", "frames", "handles", "index", "ready", "records", "version")

    def __init__(self, handles: NDArray[np.int64]) -> None:
        self.handles = handles
        first, count = int(handles[0]), len(handles)
        follow = bool((handles == np.arange(first, first + count)).all())
        self.index: slice | NDArray[np.int64] = slice(first, first + count) if follow else handles
        self.frames = 0
        self.version = -1
        self.ready = False
        self.durable = False
        self.records: NDArray[np.void] = np.zeros(0, [("slot", "<i8")])
        self._parts: list[tuple[slice, Rows]] = []

    def __len__(self) -> int:
        return len(self.handles)

    def parts(self, size: int) -> Iterator[tuple[slice, Rows]]:
        """The same in parts of at most `size` rows, each with where it is."""
        if not self._parts:
            slices = [slice(first, first + size) for first in range(0, len(self), size)]
            self._parts = [(part, Rows(self.handles[part])) for part in slices]
        yield from self._parts


def by_rows(
    log: list[tuple[Rows, NDArray[Any]]], count: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """The log as handles [B] with the inputs [B, T, ...] of each, in their order; no handle comes twice.

    count: of the handles that there are.
    """
    same: dict[Rows, list[NDArray[Any]]] = {}
    for rows, values in log:
        same.setdefault(rows, []).append(values)
    if np.bincount(np.concatenate([rows.handles for rows in same]), minlength=count).max() < 2:
        for rows, frames in same.items():  # the same rows, frame after frame
            yield rows.handles, np.ascontiguousarray(np.stack(frames).swapaxes(0, 1))
        return
    handles = np.concatenate([rows.handles for rows, _ in log])
    order = np.argsort(handles, kind="stable")  # by session, and within each as they were applied
    inputs = np.concatenate([values for _, values in log])[order]
    end = 0
    for handle, steps in zip(*np.unique(handles, return_counts=True), strict=True):
        begin, end = end, end + int(steps)
        yield np.array([handle]), inputs[None, begin:end]
