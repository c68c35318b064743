"""ONNX Runtime: one thread, no spinning, all optimisations, inputs and outputs bound beforehand.

Two graphs: the LSTM or GRU operator over a sequence of one, and the cell spelled out in matrix products and
gates. int8 is ONNX Runtime's own dynamic quantisation of each of them, per output channel; its quantiser
knows no GRU, which therefore runs spelled out only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from keepgate_kernels import CellKind
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from kernel_bench.problem import Contender, Float32, Problem, UnavailableError

LIBRARY = "ONNX Runtime"
PRECISIONS = ("fp32", "int8")
OPSET = 21
IR_VERSION = 10

ORDERS = {CellKind.LSTM: "iofg", CellKind.GRU: "zrn"}
"""ONNX's order of the gates, in PyTorch's letters (ONNX writes c for g and h for n)."""
TORCH_ORDERS = {CellKind.LSTM: "ifgo", CellKind.GRU: "rzn"}


def _reordered(rows: Float32, kind: CellKind) -> Float32:
    """Gate blocks of rows [G H, ...] from PyTorch's order to ONNX's."""
    blocks = np.split(rows, len(TORCH_ORDERS[kind]))
    return np.concatenate([blocks[TORCH_ORDERS[kind].index(gate)] for gate in ORDERS[kind]])


def _model(
    problem: Problem,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Float32],
    shapes: dict[str, list[int]],
) -> onnx.ModelProto:
    """A graph from x, h (and c) to h1 (and c1), all of the shapes given."""
    names = ["x", "h", "c"] if problem.has_c else ["x", "h"]
    outputs = ["h1", "c1"] if problem.has_c else ["h1"]

    def values(wanted: list[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name[0]]) for name in wanted]

    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "step", values(names), values(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def operator_model(problem: Problem) -> onnx.ModelProto:
    """The LSTM or GRU operator over a sequence of one step."""
    w, r, bias_w, bias_r = (_reordered(part, problem.kind) for part in problem.layer())
    constants = {"W": w[None], "R": r[None], "B": np.concatenate([bias_w, bias_r])[None]}
    is_lstm = problem.kind is CellKind.LSTM
    node = helper.make_node(
        "LSTM" if is_lstm else "GRU",
        ["x", "W", "R", "B", "", "h", "c"] if is_lstm else ["x", "W", "R", "B", "", "h"],
        ["", "h1", "c1"] if is_lstm else ["", "h1"],
        hidden_size=problem.hidden,
    )
    if not is_lstm:
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))
    shape = [1, problem.batch, problem.hidden]
    return _model(problem, [node], constants, {"x": shape, "h": shape, "c": shape})


def spelled_out_model(problem: Problem) -> onnx.ModelProto:
    """The cell in matrix products and gates: for an LSTM one product of [x, h], for a GRU one of each."""
    w, r, bias_w, bias_r = problem.layer()
    node = helper.make_node
    if problem.kind is CellKind.LSTM:
        constants = {
            "W": np.ascontiguousarray(np.concatenate([w, r], axis=1).T),
            "B": bias_w + bias_r,
        }
        nodes = [
            node("Concat", ["x", "h"], ["xh"], axis=1),
            node("MatMul", ["xh", "W"], ["product"]),
            node("Add", ["product", "B"], ["sums"]),
            node("Split", ["sums"], ["i", "f", "g", "o"], axis=1, num_outputs=4),
            *(node("Sigmoid", [gate], [f"{gate}_"]) for gate in "ifo"),
            node("Tanh", ["g"], ["g_"]),
            node("Mul", ["f_", "c"], ["kept"]),
            node("Mul", ["i_", "g_"], ["written"]),
            node("Add", ["kept", "written"], ["c1"]),
            node("Tanh", ["c1"], ["c_"]),
            node("Mul", ["o_", "c_"], ["h1"]),
        ]
    else:
        constants = {
            "W": np.ascontiguousarray(w.T),
            "R": np.ascontiguousarray(r.T),
            "BW": bias_w,
            "BR": bias_r,
        }
        nodes = [
            node("MatMul", ["x", "W"], ["product_x"]),
            node("Add", ["product_x", "BW"], ["sums_x"]),
            node("MatMul", ["h", "R"], ["product_h"]),
            node("Add", ["product_h", "BR"], ["sums_h"]),
            node("Split", ["sums_x"], ["rx", "zx", "nx"], axis=1, num_outputs=3),
            node("Split", ["sums_h"], ["rh", "zh", "nh"], axis=1, num_outputs=3),
            node("Add", ["rx", "rh"], ["r"]),
            node("Add", ["zx", "zh"], ["z"]),
            node("Sigmoid", ["r"], ["r_"]),
            node("Sigmoid", ["z"], ["z_"]),
            node("Mul", ["r_", "nh"], ["reset"]),
            node("Add", ["nx", "reset"], ["n"]),
            node("Tanh", ["n"], ["n_"]),
            node("Sub", ["h", "n_"], ["change"]),
            node("Mul", ["z_", "change"], ["kept"]),
            node("Add", ["n_", "kept"], ["h1"]),
        ]
    shape = [problem.batch, problem.hidden]
    return _model(problem, nodes, constants, {"x": shape, "h": shape, "c": shape})


def _quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="keepgate-benchmark-") as folder:
        target = Path(folder) / "int8.onnx"
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(target)


def _contender(problem: Problem, precision: str, variant: str, model: onnx.ModelProto) -> Contender:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    shape = session.get_inputs()[0].shape
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(array.reshape(shape))
        for name, array in (("x", problem.x), ("h", problem.h), ("c", problem.c))
    }
    binding = session.io_binding()
    for wanted in session.get_inputs():
        binding.bind_ortvalue_input(wanted.name, values[wanted.name])
    outputs = {
        given.name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
        for given in session.get_outputs()
    }
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, value)
    # run_with_iobinding of the Python class adds nothing but keyword handling.
    run, bound = session._sess.run_with_iobinding, binding._iobinding

    def step() -> None:
        run(bound, None)

    def error() -> float:
        step()
        return problem.error(outputs["h1"].numpy().reshape(problem.batch, problem.hidden))

    return Contender(LIBRARY, precision, variant, step, error)


def contenders(problem: Problem, precision: str) -> Iterator[Contender]:
    """Every way in which ONNX Runtime can take the step. Raises UnavailableError if there is none."""
    if precision not in PRECISIONS:
        raise UnavailableError(f"{LIBRARY} is not measured in {precision}")
    graphs = {"operator": operator_model, "graph": spelled_out_model}
    for variant, build in graphs.items():
        if precision == "int8" and variant == "operator" and problem.kind is CellKind.GRU:
            continue
        model = build(problem)
        yield _contender(problem, precision, variant, _quantised(model) if precision == "int8" else model)
