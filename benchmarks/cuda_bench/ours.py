"""Keepgate's side: the launches of a layer over resident states, and whole ticks from the host and back."""

from __future__ import annotations

import statistics
import time

import numpy as np
from cuda_bench.device import ROUNDS, microseconds
from cuda_bench.problem import Problem, expected
from keepgate_kernels import (
    CategoricalHead,
    CellKind,
    CellSpec,
    Lanes,
    LayerSpec,
    ModelSpec,
    Network,
    Sampling,
    TokenInput,
)
from keepgate_kernels.cuda.network import CudaNetwork
from keepgate_kernels.cuda.plan import HEADER
from keepgate_kernels.cuda.staging import fill, survey
from keepgate_kernels.cuda.tiles import Shape
from keepgate_kernels.lane import ANSWERED, one_input_each

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 5e-2}
REPEATS = 20


class Ours:
    """A network with all lanes of the problem. Raises AssertionError if its numbers are not the oracle's."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.network = Network(
            problem.spec, problem.tensors(), slots=problem.batch, precision=problem.precision, device="cuda"
        )
        backend = self.network.backend
        if not isinstance(backend, CudaNetwork):
            raise TypeError("the network is not on a CUDA device")
        self.backend = backend
        total = problem.batch * problem.steps
        self.lanes = Lanes(problem.spec, max_lanes=problem.batch, max_inputs=total)
        self.inputs = problem.inputs()
        for sequence in self.inputs:
            slot = self.network.slots.allocate()
            self.lanes.add(slot or 0, sequence, position=problem.steps, sampling=Sampling())
        self.network.step(self.lanes)
        self._check()

    def _check(self) -> None:
        for slot in range(self.problem.checked):
            error = float(np.abs(self.network.hidden(slot)[0] - expected(self.problem, slot)).max())
            # bf16 rounds weights too, so a long sequence drifts further from unrounded ones than a step does.
            most = TOLERANCE[self.problem.precision] * (4 if self.problem.steps > 1 else 1)
            if not error <= most:
                raise AssertionError(
                    f"{self.problem}: h of session {slot} is {error:.1e} off, more than {most:.0e}"
                )

    def layer_microseconds(self, shape: Shape | None = None) -> float:
        """A step of the layer for all sessions, replayed as a CUDA graph: gather, products, gates, scatter;
        or a sequence's steps each, not replayed. shape: of its product, or None for the one that it takes."""
        backend, lanes = self.backend, self.lanes
        backend.shape = shape
        turn = fill(
            backend._staged,
            lanes,
            0,
            len(lanes),
            len(lanes),
            backend.slots.halves,
            survey(lanes, 0, len(lanes)),
            backend._sequence is not None and backend._is_sequence(len(lanes), self.problem.steps),
        )
        backend._queue.upload(backend._batch, backend._staged, turn.words)
        backend._queue.wait()
        if self.problem.steps > 1:
            silent = turn._replace(predicts=False)

            def put() -> None:
                # The head of the batch anew: it counts who came to barriers.
                backend._queue.upload(backend._batch, backend._staged, HEADER)
                backend._run(silent, 0)

            repeats = self.problem.steps
        else:
            ((product,),) = backend._products

            def put() -> None:
                for _ in range(REPEATS):
                    backend._multiply(product, len(lanes), 0, 0)

            repeats = REPEATS
        put()
        if self.problem.steps > 1:
            return microseconds(put, backend._queue.stream, repeats)
        graphs = backend._queue.graphs
        for _ in range(2):
            graphs.run(("layer", shape), put)
        return microseconds(lambda: graphs.run(("layer", shape), put), backend._queue.stream, repeats)


def session_steps_a_second(width: int = 512, sessions: int = 4096, vocabulary: int = 78) -> float:
    """Whole ticks of an LSTM in bf16, tokens up and sampled tokens back on the host, one after the other."""
    layer = LayerSpec(CellSpec(CellKind.LSTM), width)
    spec = ModelSpec(TokenInput(vocabulary, width), (layer,), CategoricalHead(vocabulary))
    rng = np.random.default_rng(0)
    tensors = {
        name: (rng.standard_normal(shape) * 0.7 / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in spec.tensors().items()
    }
    network = Network(spec, tensors, slots=sessions, precision="bf16", device="cuda")
    slots = np.array([network.slots.allocate() for _ in range(sessions)], np.int64)
    options = np.array([Sampling(temperature=1.0, seed=i).as_record() for i in range(sessions)], ANSWERED)
    records, lanes = (
        one_input_each(spec, slots, options),
        Lanes(spec, max_lanes=sessions, max_inputs=sessions),
    )
    tokens, times = rng.integers(0, vocabulary, sessions, np.uint32), []
    for turn in range(10 * ROUNDS):
        positions = np.full(sessions, turn + 1, np.uint64)
        begin = time.perf_counter()
        lanes.clear()
        lanes.fill(records, tokens, positions)
        network.step(lanes)
        tokens = lanes.tokens.copy()
        times.append(time.perf_counter() - begin)
    return sessions / statistics.median(times)
