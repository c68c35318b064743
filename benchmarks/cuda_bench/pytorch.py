"""PyTorch's side: cuDNN's layers, and a compiled cell, with gather and scatter of the sessions' states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cuda_bench.device import torch_microseconds
from cuda_bench.problem import Problem

REPEATS = 20
WARM = 3


def _replayed(put: Callable[[], Any]) -> Callable[[], Any]:
    """`put`, REPEATS times, as a CUDA graph."""
    import torch  # noqa: PLC0415

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            put()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            put()
    replay: Callable[[], Any] = graph.replay
    return replay


class Peer:
    """A layer with the problem's weights; states [batch, width] that a step gathers from and scatters to."""

    def __init__(self, problem: Problem) -> None:
        import torch  # noqa: PLC0415

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.problem = problem
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[problem.precision]
        self.layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[problem.cell](problem.width, problem.width)
        names = {"weight_ih_l0": "weight_ih", "weight_hh_l0": "weight_hh"}
        names |= {"bias_ih_l0": "bias_ih", "bias_hh_l0": "bias_hh"}
        tensors = problem.tensors()
        self.layer.load_state_dict(
            {own: torch.from_numpy(tensors[f"layers.0.{name}"]) for own, name in names.items()}
        )
        self.layer = self.layer.to("cuda", kind).eval()
        self.layer.flatten_parameters()
        self.x = torch.from_numpy(problem.inputs()).to("cuda", kind).transpose(0, 1).contiguous()
        self.slots = torch.randperm(problem.batch, device="cuda")
        self.h = torch.zeros(problem.batch, problem.width, device="cuda", dtype=kind)
        self.c = torch.zeros_like(self.h)

    def layer_microseconds(self) -> float:
        """cuDNN: a step with gather and scatter, or a sequence's steps each."""
        import torch  # noqa: PLC0415

        lstm = self.problem.cell == "lstm"

        def put() -> None:
            h = self.h.index_select(0, self.slots)[None]
            if lstm:
                c = self.c.index_select(0, self.slots)[None]
                _, (h, c) = self.layer(self.x, (h, c))
                self.c.index_copy_(0, self.slots, c[0])
            else:
                _, h = self.layer(self.x, h)
            self.h.index_copy_(0, self.slots, h[0])

        with torch.inference_mode():
            if self.problem.steps > 1:
                put()
                return torch_microseconds(put, self.problem.steps)
            return torch_microseconds(_replayed(put), REPEATS)

    def compiled_microseconds(self) -> float:
        """torch.compile of the cell, a step with gather and scatter."""
        import torch  # noqa: PLC0415

        weights = [parameter.detach() for parameter in self.layer.parameters()]
        x, lstm = self.x[0], self.problem.cell == "lstm"

        def cell(h: Any, c: Any, slots: Any) -> tuple[Any, Any]:
            old, from_x = h[slots], torch.nn.functional.linear(x, weights[0], weights[2])
            from_h = torch.nn.functional.linear(old, weights[1], weights[3])
            if lstm:
                i, f, g, o = (from_x + from_h).chunk(4, 1)
                kept = f.sigmoid() * c[slots] + i.sigmoid() * g.tanh()
                return o.sigmoid() * kept.tanh(), kept
            (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3, 1), from_h.chunk(3, 1)
            z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * hn).tanh()
            return (1 - z) * n + z * old, c[slots]

        compiled = torch.compile(cell)

        def put() -> None:
            h, c = compiled(self.h, self.c, self.slots)
            self.h.index_copy_(0, self.slots, h)
            if lstm:
                self.c.index_copy_(0, self.slots, c)

        with torch.inference_mode():
            return torch_microseconds(_replayed(put), REPEATS)
