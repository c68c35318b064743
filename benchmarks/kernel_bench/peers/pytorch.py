"""PyTorch: one thread, inference mode.

fp32: nn.LSTM and nn.LSTMCell (nn.GRU, nn.GRUCell), and the cell spelled out in linear maps and gates: as it
is, scripted, and compiled by torch.compile with frozen weights where there is a C++ compiler.
int8: `quantize_dynamic` of the same modules, on each of the engines that this build has.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from keepgate_kernels import CellKind
from torch import nn

from kernel_bench.problem import Contender, Problem, UnavailableError

LIBRARY = "PyTorch"
PRECISIONS = ("fp32", "int8")
ENGINES = ("onednn", "fbgemm")
COMPILE_OPTIONS = {"freezing": True, "cpp_wrapper": True}
"""Weights are packed once for the library's kernels, and the calls between them are C++, not Python."""

Module = Callable[..., Any]


def _tensors(problem: Problem) -> tuple[torch.Tensor, ...]:
    """weight_ih, weight_hh, bias_ih, bias_hh."""
    return tuple(torch.from_numpy(part) for part in problem.layer())


def _loaded(module: nn.Module, problem: Problem, suffix: str) -> nn.Module:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    tensors = zip(names, _tensors(problem), strict=True)
    module.load_state_dict({f"{name}{suffix}": tensor for name, tensor in tensors})
    return module


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


class SpelledOutLSTM(nn.Module):
    """The LSTM cell as one linear map of [x, h] and gates."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        w, r, bias_w, bias_r = _tensors(problem)
        self.linear = _linear(torch.cat((w, r), 1), bias_w + bias_r)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, g, o = self.linear(torch.cat((x, h), 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class SpelledOutGRU(nn.Module):
    """The GRU cell as two linear maps and gates."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        w, r, bias_w, bias_r = _tensors(problem)
        self.from_x, self.from_h = _linear(w, bias_w), _linear(r, bias_r)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        rx, zx, nx = self.from_x(x).chunk(3, 1)
        rh, zh, nh = self.from_h(h).chunk(3, 1)
        n = torch.tanh(nx + torch.sigmoid(rx + rh) * nh)
        return torch.lerp(n, h, torch.sigmoid(zx + zh))


def _modules(problem: Problem) -> dict[str, nn.Module]:
    size, is_lstm = problem.hidden, problem.kind is CellKind.LSTM
    layer = nn.LSTM(size, size) if is_lstm else nn.GRU(size, size)
    cell = nn.LSTMCell(size, size) if is_lstm else nn.GRUCell(size, size)
    return {
        "layer": _loaded(layer, problem, "_l0").eval(),
        "cell": _loaded(cell, problem, "").eval(),
        "graph": (SpelledOutLSTM(problem) if is_lstm else SpelledOutGRU(problem)).eval(),
    }


def _contender(problem: Problem, precision: str, variant: str, module: Module) -> Contender:
    """variant begins with the name of the module that `module` was made from."""
    x, h, c = (torch.from_numpy(array) for array in (problem.x, problem.h, problem.c))
    if variant.startswith("layer"):
        x, h, c = x[None], h[None], c[None]
    state: tuple[Any, ...] = (h, c) if problem.has_c else (h,)
    if not variant.startswith("graph"):
        state = (state,) if problem.has_c else state
    call = functools.partial(module, x, *state)

    def error() -> float:
        with torch.inference_mode():
            out = call()
        h_after = out[0] if isinstance(out, tuple) else out
        return problem.error(h_after.reshape(problem.batch, problem.hidden).numpy())

    return Contender(LIBRARY, precision, variant, call, error, context=torch.inference_mode)


def _fp32(problem: Problem, modules: dict[str, nn.Module]) -> Iterator[Contender]:
    for variant, module in modules.items():
        yield _contender(problem, "fp32", variant, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.freeze(torch.jit.script(modules["graph"]))
    yield _contender(problem, "fp32", "graph, scripted", scripted)
    torch._dynamo.reset()  # it compiles one forward a few times only, and there is one for each problem
    compiled = torch.compile(modules["graph"], dynamic=False, options=dict(COMPILE_OPTIONS))
    contender = _contender(problem, "fp32", "graph, compiled", compiled)
    try:
        contender.error()
    except torch._dynamo.exc.BackendCompilerFailed:  # no C++ compiler
        return
    yield contender


def _int8(problem: Problem, modules: dict[str, nn.Module]) -> Iterator[Contender]:
    kinds = {nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell, nn.Linear}
    for engine in ENGINES:
        if engine not in torch.backends.quantized.supported_engines:
            continue
        torch.backends.quantized.engine = engine
        for variant, module in modules.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # quantised tensors are to be replaced, each module says
                quantised = torch.ao.quantization.quantize_dynamic(
                    nn.Sequential(module), kinds, dtype=torch.qint8
                )
            yield _contender(problem, "int8", f"{variant}, {engine}", quantised[0])


def contenders(problem: Problem, precision: str) -> Iterator[Contender]:
    """Every way in which PyTorch can take the step. Raises UnavailableError if there is none."""
    if precision not in PRECISIONS:
        raise UnavailableError(f"{LIBRARY} is not measured in {precision}")
    torch.set_num_threads(1)
    modules = _modules(problem)
    yield from _fp32(problem, modules) if precision == "fp32" else _int8(problem, modules)
