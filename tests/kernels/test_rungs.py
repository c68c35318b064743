"""The ladder: how a rung is chosen, and the code of those that this machine can't run."""

from __future__ import annotations

import os
import subprocess
import sys

import llvmlite.binding
import pytest
from keepgate_kernels.cpu import rungs
from keepgate_kernels.cpu.matmul import ROWS, product
from keepgate_kernels.cpu.rungs import RUNGS, Rung, RungError, available, choose
from keepgate_kernels.cpu.simd import I64, Emitter, arity
from llvmlite import ir

BY_NAME = {rung.name: rung for rung in RUNGS}

INSTRUCTIONS = {
    "avx512-bf16": ("vfmadd231ps {reg}zmm", "vdpbf16ps {reg}zmm", "vpdpbusd {reg}zmm"),
    "avx512-vnni": ("vfmadd231ps {reg}zmm", "vfmadd231ps {reg}zmm", "vpdpbusd {reg}zmm"),
    "avx512": ("vfmadd231ps {reg}zmm", "vfmadd231ps {reg}zmm", "vpmaddwd {reg}zmm"),
    "avx2-vnni": ("vfmadd231ps {reg}ymm", "vfmadd231ps {reg}ymm", "vpdpbusd {reg}ymm"),
    "avx2": ("vfmadd231ps {reg}ymm", "vfmadd231ps {reg}ymm", "vpmaddwd {reg}ymm"),
    "neon-dotprod": ("fmla v.4s", "fmla v.4s", "sdot v.4s"),
    "portable": ("mulps {reg}xmm", "mulps {reg}xmm", "pmuludq {reg}xmm"),
}
"""For fp32, bf16 and int8: a mnemonic, and the kind of register among its operands."""


def assembly(rung: Rung, precision: str, rows: int, vectors: int) -> str:
    """The product's code for a processor with just what the rung needs."""
    module = ir.Module("product")
    body = product(rung.dot(precision), rows, vectors)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arity(body)), "product")
    builder = ir.IRBuilder(function.append_basic_block())
    body(Emitter(builder, rung.lanes, rung.fused), *function.args)
    builder.ret_void()
    llvmlite.binding.initialize_all_targets()
    llvmlite.binding.initialize_all_asmprinters()
    arm = "neon" in rung.needs[0]
    triple = "aarch64-unknown-linux-gnu" if arm else "x86_64-unknown-linux-gnu"
    features = ",".join(f"+{feature}" for feature in sorted(rung.needs[0]))
    machine = llvmlite.binding.Target.from_triple(triple).create_target_machine("generic", features, opt=3)
    parsed = llvmlite.binding.parse_assembly(f'target triple = "{triple}"\n' + str(module).split("\n", 3)[3])
    parsed.verify()
    options = llvmlite.binding.create_pipeline_tuning_options(speed_level=3)
    passes = llvmlite.binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    return str(machine.emit_assembly(parsed))


def uses(code: str, instruction: str) -> bool:
    mnemonic, register = instruction.split()
    register = register.removeprefix("{reg}")
    for line in code.splitlines():
        words = line.replace("{vex}", "").split(None, 1)
        if len(words) == 2 and words[0] == mnemonic:
            if register == "v.4s" and ".4s" in words[1]:
                return True
            if f"%{register}" in words[1]:
                return True
    return False


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_the_intended_instruction_is_there(rung: Rung, precision: str) -> None:
    code = assembly(rung, precision, ROWS, 4)
    wanted = INSTRUCTIONS[rung.name][("fp32", "bf16", "int8").index(precision)]
    assert uses(code, wanted), f"{wanted} not in\n{code}"
    assert "\tcall" not in code, "a product calls no library"
    assert "\tbl\t" not in code


@pytest.mark.parametrize(
    ("name", "precision"),
    [("avx512-vnni", "fp32"), ("avx512-vnni", "int8"), ("avx512-bf16", "bf16")],
)
def test_a_full_tile_stays_in_registers(name: str, precision: str) -> None:
    code = assembly(BY_NAME[name], precision, ROWS, 4)
    assert not [line for line in code.splitlines() if "rsp" in line and "zmm" in line]


def test_every_rung_has_its_instructions_listed() -> None:
    assert set(INSTRUCTIONS) == set(BY_NAME)


def test_the_best_rung_is_the_default() -> None:
    assert choose(None) == choose("") == available()[0]
    assert available()[-1].name == "portable"


def test_any_rung_that_runs_here_can_be_chosen() -> None:
    for rung in available():
        assert choose(rung.name) == rung


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(
        RungError, match=r"KEEPGATE_CPU: got 'sse9', expected one of avx512-bf16, avx512-vnni"
    ):
        choose("sse9")


def test_a_rung_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "host_features", lambda: frozenset({"avx2", "fma"}))
    assert [rung.name for rung in available()] == ["avx2", "portable"]
    with pytest.raises(
        RungError, match=r"'avx512', which needs avx512bw .*; this processor runs avx2, portable"
    ):
        choose("avx512")


def test_the_variable_decides_for_a_process() -> None:
    probe = "from keepgate_kernels import cpu_info; i = cpu_info(); print(i['rung'], '|', i['chosen'])"
    environment = os.environ | {"KEEPGATE_CPU": "portable"}
    result = subprocess.run(
        [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "portable | by KEEPGATE_CPU"
