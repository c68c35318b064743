"""PyTorch's side: cuDNN's layers, and a compiled cell, with gather and scatter of the sessions' states."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda_bench.device import torch_microseconds
from cuda_bench.problem import Problem, expected

REPEATS = 20
WARM = 3
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
KINDS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-3}
"""Of h, as a ratio of norms. On the CPU PyTorch's own layers are at most 6e-3 (bf16) and 8e-4 (fp16) off."""


def missing() -> str:
    """Why the peers cannot run here, or nothing."""
    lacking = [name for name in ("torch", "matplotlib") if importlib.util.find_spec(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed: `make bench-cuda` installs what is needed"
    import torch  # noqa: PLC0415

    if not torch.version.cuda:
        return (
            f"PyTorch {torch.__version__} is built without CUDA: install its build for CUDA 13 in its place"
        )
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} needs a driver for CUDA {torch.version.cuda}"
    return ""


def versions() -> dict[str, Any]:
    """Of PyTorch, of the CUDA that it was built for, and of cuDNN."""
    import torch  # noqa: PLC0415

    cudnn = torch.backends.cudnn.version()
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}


def cell(lstm: bool, x: Any, weights: list[Any]) -> Callable[[Any, Any, Any], None]:
    """A step in PyTorch's operations. x [batch, width]; the function's h and c [batch, width] hold states by
    slot, and are changed."""
    import torch  # noqa: PLC0415

    def step(h: Any, c: Any, slots: Any) -> None:
        old, from_x = h[slots], torch.nn.functional.linear(x, weights[0], weights[2])
        from_h = torch.nn.functional.linear(old, weights[1], weights[3])
        if lstm:
            i, f, g, o = (from_x + from_h).chunk(4, 1)
            kept = f.sigmoid() * c[slots] + i.sigmoid() * g.tanh()
            c.index_copy_(0, slots, kept)
            h.index_copy_(0, slots, o.sigmoid() * kept.tanh())
        else:
            (xr, xz, xn), (hr, hz, hn) = from_x.chunk(3, 1), from_h.chunk(3, 1)
            z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * hn).tanh()
            h.index_copy_(0, slots, (1 - z) * n + z * old)

    return step


def compiled_cell(step: Callable[..., None], mode: str) -> Callable[..., None]:
    """`torch.compile` of the whole function for the shapes of its first call, or an error."""
    import torch  # noqa: PLC0415
    import torch._dynamo  # noqa: PLC0415

    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch.compiler.reset()  # Dynamo counts compilations of one function, and stops at eight
    compiled: Callable[..., None] = torch.compile(step, fullgraph=True, dynamic=False, mode=mode)
    return compiled


def _replayed(put: Callable[[], Any], repeats: int) -> Callable[[], Any]:
    """`put`, so many times, as a CUDA graph."""
    import torch  # noqa: PLC0415

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            put()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            put()
    replay: Callable[[], Any] = graph.replay
    return replay


class Peer:
    """A layer with the problem's weights in a precision; states [batch, width] that a step gathers from and
    scatters to."""

    def __init__(self, problem: Problem, precision: str) -> None:
        import torch  # noqa: PLC0415

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.problem, self.precision, self.lstm = problem, precision, problem.cell == "lstm"
        kind, tensors = getattr(torch, KINDS[precision]), problem.tensors()
        self.weights = [torch.from_numpy(tensors[f"layers.0.{name}"]).to("cuda", kind) for name in WEIGHTS]
        self.x = torch.from_numpy(problem.inputs()).to("cuda", kind).transpose(0, 1).contiguous()
        self.slots = torch.randperm(problem.batch, device="cuda")
        self.h = torch.zeros(problem.batch, problem.width, device="cuda", dtype=kind)
        self.c = torch.zeros_like(self.h)

    def cudnn_microseconds(self) -> float:
        """cuDNN: a step with gather and scatter, or a sequence's steps each.

        What torch.nn calls is called here, since its flatten_parameters leaves bf16 as it is (PyTorch 2.13),
        and weights that are not flat are copied at every call. `_cudnn_rnn` runs cuDNN or fails.
        """
        import torch  # noqa: PLC0415

        width, mode = self.problem.width, torch.backends.cudnn.rnn.get_cudnn_mode(self.problem.cell.upper())
        shape, weights = (width, 0, 1), (self.weights, len(self.weights))
        with torch.no_grad():
            flat = torch._cudnn_rnn_flatten_weight(*weights, width, mode, *shape, False, False)

        def put() -> None:
            h = self.h.index_select(0, self.slots)[None]
            c = self.c.index_select(0, self.slots)[None] if self.lstm else None
            _, h, c, _, _ = torch._cudnn_rnn(
                self.x, *weights, flat, h, c, mode, *shape, False, 0.0, False, False, [], None
            )
            self.h.index_copy_(0, self.slots, h[0])
            if self.lstm:
                self.c.index_copy_(0, self.slots, c[0])

        return self._microseconds(put)

    def compiled_microseconds(self, modes: tuple[str, ...]) -> float:
        """torch.compile of the cell, a step with gather and scatter, in the fastest of the modes."""
        step = cell(self.lstm, self.x[0], self.weights)

        def measured(mode: str) -> float:
            compiled = compiled_cell(step, mode)
            return self._microseconds(lambda: compiled(self.h, self.c, self.slots))

        return min(map(measured, modes))

    def _microseconds(self, put: Callable[[], Any]) -> float:
        """Checked, then replayed as a CUDA graph; a sequence is launched without one too, and the faster
        counts."""
        import torch  # noqa: PLC0415

        steps = self.problem.steps
        with torch.inference_mode():
            self.h.zero_()
            self.c.zero_()
            put()
            self._check()
            if steps == 1:
                return torch_microseconds(_replayed(put, REPEATS), REPEATS)
            return min(torch_microseconds(put, steps), torch_microseconds(_replayed(put, 1), steps))

    def _check(self) -> None:
        h = self.h[self.slots].float().cpu().numpy()
        for session in range(self.problem.checked):
            wanted = expected(self.problem, session)
            error = float(np.linalg.norm(h[session] - wanted) / np.linalg.norm(wanted))
            if not error <= TOLERANCE[self.precision]:
                raise AssertionError(
                    f"{self.problem}: PyTorch's h in {self.precision}, session {session}, is {error:.1e} off"
                )
