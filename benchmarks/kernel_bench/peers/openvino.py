"""OpenVINO on the CPU: one thread, latency hint, an infer request whose tensors are set beforehand.

Three graphs: the cell operator, the sequence operator over one step, and the cell in matrix products and
gates. bf16 is asked for by the precision hint; a processor without it falls back to f32, which the figures
then say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino
from keepgate_kernels import CellKind
from openvino import opset15 as ops

from kernel_bench.problem import Contender, Float32, Problem, UnavailableError

LIBRARY = "OpenVINO"
PRECISIONS = ("fp32", "bf16")
HINTS = {"fp32": "f32", "bf16": "bf16"}
ORDERS = {CellKind.LSTM: "figo", CellKind.GRU: "zrn"}
"""OpenVINO's order of the gates, in PyTorch's letters."""
TORCH_ORDERS = {CellKind.LSTM: "ifgo", CellKind.GRU: "rzn"}


def _blocks(rows: Float32, kind: CellKind) -> dict[str, Float32]:
    return dict(zip(TORCH_ORDERS[kind], np.split(rows, len(TORCH_ORDERS[kind])), strict=True))


def _operands(problem: Problem) -> tuple[Float32, Float32, Float32]:
    """W, R, B as the recurrent operators want them; a GRU's B has the candidate's two biases apart."""
    kind = problem.kind
    parts = [_blocks(part, kind) for part in problem.layer()]
    w, r = (np.concatenate([part[gate] for gate in ORDERS[kind]]) for part in parts[:2])
    bias_w, bias_r = parts[2:]
    if kind is CellKind.LSTM:
        bias = np.concatenate([bias_w[gate] + bias_r[gate] for gate in ORDERS[kind]])
    else:
        bias = np.concatenate(
            [bias_w["z"] + bias_r["z"], bias_w["r"] + bias_r["r"], bias_w["n"], bias_r["n"]]
        )
    return w, r, bias


def cell_model(problem: Problem) -> openvino.Model:
    """LSTMCell or GRUCell: x, h, c [B, H]."""
    x, h, c = (ops.parameter([problem.batch, problem.hidden], np.float32, name) for name in "xhc")
    w, r, bias = _operands(problem)
    if problem.kind is CellKind.LSTM:
        cell = ops.lstm_cell(x, h, c, w, r, bias, problem.hidden)
        return openvino.Model([cell.output(0), cell.output(1)], [x, h, c], "step")
    cell = ops.gru_cell(x, h, w, r, bias, problem.hidden, linear_before_reset=True)
    return openvino.Model([cell.output(0)], [x, h], "step")


def sequence_model(problem: Problem) -> openvino.Model:
    """LSTMSequence or GRUSequence over one step: x [B, 1, H], h, c [B, 1, H]."""
    x, h, c = (ops.parameter([problem.batch, 1, problem.hidden], np.float32, name) for name in "xhc")
    w, r, bias = (part[None] for part in _operands(problem))
    lengths = ops.constant(np.ones(problem.batch, np.int32))
    if problem.kind is CellKind.LSTM:
        layer = ops.lstm_sequence(x, h, c, lengths, w, r, bias, problem.hidden, "forward")
        return openvino.Model([layer.output(1), layer.output(2)], [x, h, c], "step")
    layer = ops.gru_sequence(x, h, lengths, w, r, bias, problem.hidden, "forward", linear_before_reset=True)
    return openvino.Model([layer.output(1)], [x, h], "step")


def spelled_out_model(problem: Problem) -> openvino.Model:
    """The cell in matrix products and gates: for an LSTM one product of [x, h], for a GRU one of each."""
    x, h, c = (ops.parameter([problem.batch, problem.hidden], np.float32, name) for name in "xhc")
    w, r, bias_w, bias_r = problem.layer()

    def product(rows: Any, weight: Float32, bias: Float32) -> Any:
        return ops.add(ops.matmul(rows, weight, False, True), bias[None])

    if problem.kind is CellKind.LSTM:
        sums = product(ops.concat([x, h], 1), np.concatenate([w, r], axis=1), bias_w + bias_r)
        i, f, g, o = ops.split(sums, 1, 4).outputs()
        after = ops.add(ops.multiply(ops.sigmoid(f), c), ops.multiply(ops.sigmoid(i), ops.tanh(g)))
        out = ops.multiply(ops.sigmoid(o), ops.tanh(after))
        return openvino.Model([out.output(0), after.output(0)], [x, h, c], "step")
    rx, zx, nx = ops.split(product(x, w, bias_w), 1, 3).outputs()
    rh, zh, nh = ops.split(product(h, r, bias_r), 1, 3).outputs()
    z = ops.sigmoid(ops.add(zx, zh))
    n = ops.tanh(ops.add(nx, ops.multiply(ops.sigmoid(ops.add(rx, rh)), nh)))
    out = ops.add(n, ops.multiply(z, ops.subtract(h, n)))
    return openvino.Model([out.output(0)], [x, h], "step")


def _precision_note(compiled: Any, precision: str) -> str:
    """What OpenVINO made of the precision that was asked for, if that is something else."""
    used = {
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in {"FullyConnected", "MatMul", "RNNCell", "RNNSeq"}
    }
    if used == {HINTS[precision]}:
        return ""
    return f"asked for {HINTS[precision]}, OpenVINO computes in {', '.join(sorted(used)) or 'unknown'}"


def _contender(problem: Problem, precision: str, variant: str, model: openvino.Model) -> Contender:
    options = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "EXECUTION_MODE_HINT": "PERFORMANCE",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    shape = list(compiled.inputs[0].shape)
    arrays = (problem.x, problem.h, problem.c)[: len(compiled.inputs)]
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, openvino.Tensor(array.reshape(shape)))
    out = request.get_output_tensor(0)

    # The Python class wraps this method's answer in a dictionary, which takes 3 to 7 us.
    infer = openvino._pyopenvino.InferRequest.infer

    def step() -> None:
        infer(request, {}, True, False)

    def error() -> float:
        step()
        return problem.error(out.data.reshape(problem.batch, problem.hidden))

    note = _precision_note(compiled, precision)
    return Contender(LIBRARY, precision, variant, step, error, note=note)


def contenders(problem: Problem, precision: str) -> Iterator[Contender]:
    """Every way in which OpenVINO can take the step. Raises UnavailableError if there is none."""
    if precision not in PRECISIONS:
        raise UnavailableError(f"{LIBRARY} is not measured in {precision}")
    if precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnavailableError("this processor has no bf16 instructions, and OpenVINO emulates them")
    graphs: dict[str, Callable[[Problem], openvino.Model]] = {
        "cell": cell_model,
        "sequence": sequence_model,
        "graph": spelled_out_model,
    }
    for variant, build in graphs.items():
        yield _contender(problem, precision, variant, build(problem))
