"""A step of a batch of sessions on ONNX Runtime. MLServer's process has it too, and no Keepgate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from service_bench.servers.ticker import Answers


class OnnxRuntime:
    """The states of `capacity` sessions, [capacity, H] for h and c of a layer, and a graph that steps."""

    def __init__(self, graph: Path, capacity: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        states = self._session.get_inputs()[1:]
        self._names = [state.name for state in states]
        self._states = [np.zeros((capacity, state.shape[-1]), np.float32) for state in states]

    @property
    def variant(self) -> str:
        return "LSTM operator"

    def clear(self, slot: int) -> None:
        """A new session's state."""
        for state in self._states:
            state[slot] = 0

    def step(self, slots: list[int], tokens: list[int]) -> Answers:
        index = np.array(slots)
        feed = {name: state[index][None] for name, state in zip(self._names, self._states, strict=True)}
        feed["tokens"] = np.array(tokens, np.int64)
        token, log_probability, *states = self._session.run(None, feed)
        for kept, state in zip(self._states, states, strict=True):
            kept[index] = state[0]
        return token.tolist(), log_probability.tolist()
