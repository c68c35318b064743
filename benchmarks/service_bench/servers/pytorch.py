"""One step of a batch of sessions on PyTorch: inference mode, fp32.

Three ways to write it are timed when the server starts, and the fastest one serves: `nn.LSTM` over a
sequence of one, `nn.LSTMCell`, and one linear map a layer with the gates as written, the embedding folded
into the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from service_bench.servers.ticker import Answers

TRIED = (1, 32, 256)
"""Batches of the trial."""
REPEATS = 15

States = tuple[torch.Tensor, torch.Tensor]
"""h and c, [layers, B, H]."""
Recurrence = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, States]]
"""Tokens [B], h and c to the last layer's h and the new states."""


class PyTorch:
    """The states of `capacity` sessions in one tensor each for h and c, gathered and scattered."""

    def __init__(self, weights: Path, capacity: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._weights = {name: torch.from_numpy(array) for name, array in np.load(weights).items()}
        self._layers = sum(name.endswith("weight_hh") for name in self._weights)
        hidden = self._weights["layers.0.weight_hh"].shape[1]
        self._h = torch.zeros(self._layers, capacity, hidden)
        self._c = torch.zeros(self._layers, capacity, hidden)
        self._head = self._weights["head.weight"].t().contiguous()
        ways = {
            "nn.LSTM": self._module(),
            "nn.LSTMCell": self._cells(),
            "linear maps and gates": self._spelled_out(),
        }
        self.variant = min(ways, key=lambda name: self._cost(ways[name]))
        self._recurrence = ways[self.variant]

    def clear(self, slot: int) -> None:
        """A new session's state."""
        with torch.inference_mode():
            self._h[:, slot] = 0
            self._c[:, slot] = 0

    def step(self, slots: list[int], tokens: list[int]) -> Answers:
        with torch.inference_mode():
            index = torch.tensor(slots)
            states = self._h.index_select(1, index), self._c.index_select(1, index)
            top, (h, c) = self._recurrence(torch.tensor(tokens), *states)
            self._h.index_copy_(1, index, h)
            self._c.index_copy_(1, index, c)
            logits = torch.addmm(self._weights["head.bias"], top, self._head)
            best, token = torch.log_softmax(logits, 1).max(1)
            return token.tolist(), best.tolist()

    def _cost(self, recurrence: Recurrence) -> float:
        """The product of the median times of the batches tried."""
        product = 1.0
        with torch.inference_mode():
            for batch in TRIED:
                tokens, h = torch.zeros(batch, dtype=torch.long), self._h[:, :1].repeat(1, batch, 1)
                times = []
                for _ in range(REPEATS):
                    begin = time.perf_counter()
                    recurrence(tokens, h, h)
                    times.append(time.perf_counter() - begin)
                product *= sorted(times)[REPEATS // 2]
        return product

    def _layer(self, index: int) -> tuple[torch.Tensor, ...]:
        """weight_ih, weight_hh, bias_ih, bias_hh."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return tuple(self._weights[f"layers.{index}.{name}"] for name in names)

    def _module(self) -> Recurrence:
        embedding = self._weights["embedding.weight"]
        module = nn.LSTM(embedding.shape[1], self._h.shape[2], self._layers).eval()
        for index in range(self._layers):
            for name, value in zip(
                ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), self._layer(index), strict=True
            ):
                getattr(module, f"{name}_l{index}").data.copy_(value)

        def run(tokens: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, States]:
            top, states = module(embedding[tokens][None], (h, c))
            return top[0], states

        return run

    def _cells(self) -> Recurrence:
        embedding = self._weights["embedding.weight"]
        cells = []
        for index in range(self._layers):
            values = self._layer(index)
            cell = nn.LSTMCell(values[0].shape[1], values[1].shape[1]).eval()
            for name, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), values, strict=True):
                getattr(cell, name).data.copy_(value)
            cells.append(cell)

        def run(tokens: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, States]:
            x, states = embedding[tokens], []
            for index, cell in enumerate(cells):
                states.append(cell(x, (h[index], c[index])))
                x = states[-1][0]
            return x, (torch.stack([s[0] for s in states]), torch.stack([s[1] for s in states]))

        return run

    def _spelled_out(self) -> Recurrence:
        w, r, bias_w, bias_r = self._layer(0)
        table = self._weights["embedding.weight"] @ w.t() + bias_w + bias_r
        maps = [r.t().contiguous()]
        biases = [table]
        for index in range(1, self._layers):
            w, r, bias_w, bias_r = self._layer(index)
            maps.append(torch.cat((w, r), 1).t().contiguous())
            biases.append(bias_w + bias_r)

        def run(tokens: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, States]:
            gates = torch.addmm(table[tokens], h[0], maps[0])
            states: list[States] = []
            for index in range(self._layers):
                if index:
                    gates = torch.addmm(biases[index], torch.cat((states[-1][0], h[index]), 1), maps[index])
                i, f, g, o = gates.chunk(4, 1)
                cell = torch.sigmoid(f) * c[index] + torch.sigmoid(i) * torch.tanh(g)
                states.append((torch.sigmoid(o) * torch.tanh(cell), cell))
            return states[-1][0], (torch.stack([s[0] for s in states]), torch.stack([s[1] for s in states]))

        return run
