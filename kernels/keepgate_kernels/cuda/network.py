"""A loaded model on a CUDA device: a tick is one upload, a launch a product, the head, one download."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepgate_kernels.cuda import plan as p
from keepgate_kernels.cuda.answers import ANSWER_WORDS
from keepgate_kernels.cuda.calls import Tail
from keepgate_kernels.cuda.catalogue import Entry, entries, head_entries, step_entry
from keepgate_kernels.cuda.choice import choices, index_of
from keepgate_kernels.cuda.launch import Queue, architecture, limits, pinned, told
from keepgate_kernels.cuda.layout import LAYER_SCALES, SEQUENCE_ROWS, Layout, row_threads
from keepgate_kernels.cuda.packing import Packed, Product, folds, pack
from keepgate_kernels.cuda.sequences import LEAST_SEQUENCE_STEPS, SEQUENCE_LANES, Sequences
from keepgate_kernels.cuda.slots import CudaSlots
from keepgate_kernels.cuda.staging import Turn, fill, survey, tell, words_of
from keepgate_kernels.cuda.target import FAILURES
from keepgate_kernels.cuda.tiles import Shape
from keepgate_kernels.lanes import Lanes
from keepgate_kernels.spec import ModelSpec, TokenInput


class CudaNetwork:
    """The backend of a `Network` on the process's current CUDA device, with its arguments.

    Raises DeviceMissingError, DeviceMemoryError.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tensors: Mapping[str, NDArray[np.float32]],
        *,
        slots: int,
        precision: str,
    ) -> None:
        self._queue = Queue()
        self._spec, self._precision = spec, precision
        self._layout = Layout(spec, precision, slots, 0 if folds(spec) else spec.input_size)
        packed = pack(spec, tensors, precision, self._layout)
        self._bytes = packed.weights.nbytes + packed.values.nbytes
        self.slots = CudaSlots(spec, slots, self._layout, self._queue)
        with told(f"weights of {self._bytes} bytes"):
            self._weights = self._queue.put(packed.weights)
            self._values = self._queue.put(packed.values)
            self._load_plans(packed)
            self._keys = self._queue.array(self._layout.key_size, np.uint64)
        by_name = {entry.name: entry for entry in entries()}
        draws = isinstance(spec.input, TokenInput)
        self._feed = by_name[f"feed_{precision}"]
        of_head = head_entries(row_threads(spec.head.size))
        self._answer = of_head["answer_drawn" if draws else "answer_plain"]
        self._score = of_head["score"]
        self.shape: Shape | None = None
        """The shape that every product takes, or None to choose by the number of rows; bits are the same."""
        self._room = -1
        self._outputs = -1
        self._make_room(words_of(1, 1, spec.input_size), ANSWER_WORDS)

    @property
    def kernel(self) -> str:
        """The device's architecture."""
        return architecture()

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return self._bytes

    def _load_plans(self, packed: Packed) -> None:
        queue, depth = self._queue, len(self._spec.layers)
        products = (*(product for layer in packed.layers for product in layer), packed.head)
        most = max(self._layout.rows, SEQUENCE_ROWS)
        self._choices = {product.work: choices(product.work, most, limits()) for product in products}
        self._products = [
            [(product, queue.put(product.plan)) for product in layer] for layer in packed.layers
        ]
        self._head = (packed.head, queue.put(packed.head.plan))
        before = packed.head.plan.copy()
        self._layout.reads_state(before, "H", depth - 1, p.OLD)
        self._head_before = (packed.head, queue.put(before))
        self._feed_plan = None if packed.feed is None else queue.put(packed.feed)
        self._sequence = self._plan_sequences(packed)
        self._requantised = {
            index: queue.put(self._layout.requantises(index, packed.layers[index][-1].plan))
            for index in range(depth)
            if self._layout.layers[index, LAYER_SCALES] != p.ABSENT
        }

    def _plan_sequences(self, packed: Packed) -> Sequences | None:
        """None if the layers are of another kind, or too large to keep their weights in shared memory."""
        if not self._layout.has_sequences:
            return None
        plans = Sequences(self._queue, self._layout, packed, self._precision)
        return plans if plans.fits else None

    def _make_room(self, words: int, outputs: int) -> None:
        """For uploads and downloads of that many words."""
        if words > self._room or outputs > self._outputs:
            self._queue.graphs.forget()
        if words > self._room:
            room = max(words, 2 * self._room)
            staged, batch = pinned(room, np.int32), self._queue.array(room, np.int32)
            self._room, self._staged, self._batch = room, staged, batch
            self._numbers = batch.view(np.float32)
        if outputs > self._outputs:
            room = max(outputs, 2 * self._outputs)
            answers, out = pinned(room, np.uint32), self._queue.array(room, np.uint32)
            self._outputs, self._answers, self._out = room, answers, out

    def step(self, lanes: Lanes) -> None:
        """See `Network.step`; threads step one after the other."""
        if not len(lanes):
            return
        with self.slots.lock, told("a step"):
            self._queue.enter()
            try:
                for first in range(0, len(lanes), self._layout.rows):
                    self._step(lanes, first, min(self._layout.rows, len(lanes) - first))
            except BaseException:
                with suppress(*FAILURES):  # of a device that is lost there is nothing to clear
                    self._clear()
                raise

    def _clear(self) -> None:
        """After a failure: let what was put into the stream end, and forget what it left behind."""
        self._queue.wait()
        self._queue.graphs.forget()
        self._queue.fill_zeros(self.slots.work, self._layout.rows)

    def _step(self, lanes: Lanes, first: int, count: int) -> None:
        width = 1 if lanes.takes_tokens else self._spec.input_size
        found = survey(lanes, first, count)
        longest = found.longest
        places = min(1 << (count - 1).bit_length(), self._layout.rows)
        pool_at = ANSWER_WORDS * self._layout.rows
        of_all = 0 if lanes.takes_tokens else places * lanes.head_size
        self._make_room(
            words_of(places, longest, (lanes.inputs + places) * width), pool_at + max(lanes.pooled, of_all)
        )
        sequence = self._sequence is not None and not found.scores and self._is_sequence(count, longest)
        turn = fill(self._staged, lanes, first, count, places, self.slots.halves, found, sequence)
        outputs = 0 if lanes.takes_tokens else count * lanes.head_size
        if longest == 1 and turn.predicts and not turn.scores and lanes.pooled == outputs:
            # As most ticks are: all with so many places are the same launches, of which some rows are none.
            turn = turn._replace(lanes=places, counts=np.array([places], np.int32))
            key = (places, turn.words, self.shape)
            self._queue.graphs.run(key, partial(self._enqueue, turn, pool_at, of_all))
        else:
            self._enqueue(turn, pool_at, lanes.pooled)
        self._queue.wait()
        self._tell(lanes, first, count, pool_at)

    def _enqueue(self, turn: Turn, pool_at: int, pooled: int) -> None:
        """Upload, all launches, download."""
        queue = self._queue
        queue.upload(self._batch, self._staged, turn.words)
        self._run(turn, pool_at)
        queue.download(self._answers, self._out, 0, ANSWER_WORDS * turn.lanes)
        if pooled:
            queue.download(self._answers[pool_at:], self._out, pool_at, pooled)

    def _tell(self, lanes: Lanes, first: int, count: int, pool_at: int) -> None:
        """Copy the answers into the lanes."""
        tell(self._answers, lanes, first, count)
        if lanes.pooled:
            lanes.batch.pool.view(np.uint32)[: lanes.pooled] = self._answers[pool_at : pool_at + lanes.pooled]

    def _run(self, turn: Turn, pool_at: int) -> None:
        """All launches of a turn."""
        if turn.flat and self._sequence is not None:
            self._run_sequence(self._sequence, turn)
            turn = turn._replace(counts=turn.counts[:0])
        for step, alive in enumerate(turn.counts.tolist()):
            if turn.scores:
                self._head_and(self._score, self._head_before, alive, step, (pool_at, step))
            if self._feed_plan is not None:
                self._make_rows(self._feed_plan, alive, step)
            for index, products in enumerate(self._products):
                for product in products:
                    self._multiply(product, alive, step, 0)
                if index in self._requantised:
                    self._make_rows(self._requantised[index], alive, step)
        rows = turn.lanes if turn.predicts else 0
        self._head_and(self._answer, self._head, rows, 0, (pool_at, 0))
        if not rows:  # the flags are to be told, and cleared, all the same
            self._finish(self._answer, turn.lanes, 0, (pool_at, 0))

    @staticmethod
    def _is_sequence(lanes: int, steps: int) -> bool:
        return lanes <= SEQUENCE_LANES and steps >= LEAST_SEQUENCE_STEPS

    def _run_sequence(self, plans: Sequences, turn: Turn) -> None:
        """All steps of the lanes, layer by layer, so many at a time as there is room for."""
        slots, total, arrivals = self.slots, turn.counts.size, 0
        batch, numbers = Tail(self._batch, turn.flat), Tail(self._numbers, turn.flat)
        memory = (slots.state, slots.operands, self._weights, self._values, slots.work)
        most = max(1, SEQUENCE_ROWS // turn.lanes)
        for first in range(0, total, most):
            steps = min(most, total - first)
            rows, begin = steps * turn.lanes, first * turn.lanes
            if plans.feed is not None:
                arrays = (slots.state, slots.operands, self._values, slots.work, plans.feed, (0, begin))
                self._queue.launch(self._feed, (rows, 1), batch, numbers, *arrays)
            for layer in plans.layers:
                if layer.hoisted is not None:
                    self._launch(layer.product, layer.hoisted, rows, batch, (0, begin))
                at = (first, steps, arrivals)
                self._queue.launch(layer.entry, (layer.blocks, 1), self._batch, *memory, layer.steps, at)
                arrivals += layer.blocks * steps

    def _make_rows(self, plan: Any, rows: int, step: int) -> None:
        arrays = (self.slots.state, self.slots.operands, self._values, self.slots.work)
        self._queue.launch(self._feed, (rows, 1), self._batch, self._numbers, *arrays, plan, (step, 0))

    def _multiply(self, product: tuple[Product, Any], rows: int, step: int, first: int) -> None:
        """A product for rows [first, first + rows) of a step."""
        self._launch(*product, rows, self._batch, (step, first))

    def _launch(self, own: Product, plan: Any, rows: int, batch: Any, at: tuple[int, int]) -> None:
        shape = self.shape or self._choices[own.work][index_of(rows)]
        across = -(-own.blocks // shape.blocks_across(own.gates))
        self._queue.launch(
            step_entry(self._precision, own.gates, shape),
            (across, -(-rows // shape.rows)),
            *(batch, self.slots.state, self.slots.operands, self._weights, self._values),
            *(self.slots.work, plan, at),
        )

    def _head_and(
        self, entry: Entry, head: tuple[Product, Any], rows: int, step: int, told_of: tuple[int, int]
    ) -> None:
        """The head for the first rows, a group at a time, and what is done with its outputs."""
        for first in range(0, rows, self._layout.head_rows):
            group = min(self._layout.head_rows, rows - first)
            self._multiply(head, group, step, first)
            self._finish(entry, group, first, told_of)

    def _finish(self, entry: Entry, rows: int, first: int, told_of: tuple[int, int]) -> None:
        self._queue.launch(
            entry,
            (rows, 1),
            *(self._batch, self.slots.work, self._keys, self._out, self._head[1]),
            (told_of[0], first, told_of[1]),
        )

    def hidden(self, slot: int) -> list[NDArray[np.float32]]:
        """Copies of the hidden state of every layer, float32 [P] each."""
        numbers = np.frombuffer(self.slots.read(slot), "<f4")
        hidden, first = [], 0
        for layer in self._spec.layers:
            hidden.append(numbers[first : first + layer.output_size].copy())
            first += layer.output_size + layer.cell_state_size
        return hidden

    def compile(self) -> None:
        """Compile what the first step did not: the other shapes, and what moves states."""
        with told("compiling kernels"):
            for work, shapes in self._choices.items():
                for shape in dict.fromkeys(shapes):
                    self._queue.load(step_entry(self._precision, work.gates, shape))
            self.slots.compile()
