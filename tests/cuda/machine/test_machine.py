"""The machine tells of everything that a device would do wrong in silence."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_report import pretended
from keepgate_kernels.cuda import ptx
from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic
from support.ptx_machine import build
from support.ptx_machine.direct import Machine, MachineError
from support.ptx_machine.operands import UnknownError
from support.ptx_machine.translate import translate

NUMBERS, WORDS = types.Array(types.float32, 1, "C"), types.Array(types.uint32, 1, "C")
SEEDS = range(1, 9)
Kernel = Callable[..., None]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(build(tmp_path_factory.mktemp("machine")))


@functools.cache
def compiled(machine: Machine, kernel: Kernel, *kinds: Any) -> ctypes.c_void_p:
    return machine.kernel(code_of(kernel, *kinds))


def code_of(kernel: Kernel, *kinds: Any) -> str:
    with pretended((9, 0)):
        code, _ = cuda.compile_ptx(kernel, kinds, cc=(9, 0))
    return str(code)


def reverses(source: Any, target: Any) -> None:
    held = cuda.shared.array(64, types.float32)
    at = cuda.threadIdx.x
    held[at] = source[cuda.blockIdx.x * 64 + at]
    cuda.syncthreads()
    target[cuda.blockIdx.x * 64 + at] = held[63 - at]


def reverses_without_a_barrier(source: Any, target: Any) -> None:
    held = cuda.shared.array(64, types.float32)
    at = cuda.threadIdx.x
    held[at] = source[cuda.blockIdx.x * 64 + at]
    target[cuda.blockIdx.x * 64 + at] = held[63 - at]


def reverses_warps_without_a_barrier(source: Any, target: Any) -> None:
    """Lanes of a warp need one as well."""
    held = cuda.shared.array(32, types.float32)
    at = cuda.threadIdx.x
    held[at] = source[at]
    if source[0] < 0:
        cuda.syncwarp()
    target[at] = held[31 - at]


def test_blocks_share_memory(machine: Machine) -> None:
    source, target = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    machine.launch(compiled(machine, reverses, NUMBERS, NUMBERS), 4, 64, source, target)
    assert (target.reshape(4, 64) == source.reshape(4, 64)[:, ::-1]).all()


@pytest.mark.parametrize("kernel", [reverses_without_a_barrier, reverses_warps_without_a_barrier])
def test_a_missing_barrier(machine: Machine, kernel: Kernel) -> None:
    source, target = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    for seed in SEEDS:
        machine.seed(seed)
        with pytest.raises(MachineError, match="without a barrier between"):
            machine.launch(
                compiled(machine, kernel, NUMBERS, NUMBERS),
                1,
                32 if "warps" in kernel.__name__ else 64,
                source,
                target,
            )


def test_memory_that_is_not_live(machine: Machine) -> None:
    source, target = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    with pytest.raises(MachineError, match=r"4 bytes of memory at .* that is not live"):
        machine.launch(compiled(machine, reverses, NUMBERS, NUMBERS), 5, 64, source, target)


def test_shared_memory_that_is_not_there(machine: Machine) -> None:
    source, target = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    with pytest.raises(MachineError, match="of 256 bytes of shared memory"):
        machine.launch(compiled(machine, reverses, NUMBERS, NUMBERS), 1, 128, source, target)


def shifts(source: Any, target: Any) -> None:
    """Reads what another block writes."""
    at = cuda.blockIdx.x * 32 + cuda.threadIdx.x
    target[at] = target[(at + 32) % 128] + source[at]


def test_a_block_that_reads_what_another_writes(machine: Machine) -> None:
    source, target = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    for seed in SEEDS:
        machine.seed(seed)
        with pytest.raises(MachineError, match=r"which (block . has written|another block has read) in this"):
            machine.launch(compiled(machine, shifts, NUMBERS, NUMBERS), 4, 32, source, target)


def waits_in_a_branch(source: Any, target: Any) -> None:
    at = cuda.threadIdx.x
    if source[at] > 0:
        cuda.syncthreads()
    target[at] = source[at]
    cuda.syncwarp()


def test_a_barrier_that_not_all_reach(machine: Machine) -> None:
    source, target = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    with pytest.raises(MachineError, match="waits for threads that do not come"):
        machine.launch(compiled(machine, waits_in_a_branch, NUMBERS, NUMBERS), 1, 32, source, target)


@functools.cache
def copies(waits: int, syncs: bool) -> Kernel:
    """Copies 16 bytes a thread, zeros for the first two, and waits until so many groups are on their way."""
    wait = ptx.waiting(waits)

    def kernel(source: Any, target: Any) -> None:
        held = cuda.shared.array(128, types.uint32)
        at = cuda.threadIdx.x
        to, place = ptx.shared_address(held, np.int32(at * 4)), ptx.address_of(source, at * 4)
        ptx.copy16(held, to, source, place, np.int32(at), np.int32(1))
        ptx.commit()
        wait()
        if syncs:
            cuda.syncthreads()
        for index in range(4):
            target[at * 4 + index] = held[(at * 4 + index + (4 if syncs else 0)) % 128]

    return kernel


def test_copies_arrive(machine: Machine) -> None:
    source, target = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    machine.launch(compiled(machine, copies(0, True), WORDS, WORDS), 1, 32, source, target)
    source[:8] = 0
    assert (target == np.roll(source, -4)).all()


def test_a_copy_that_is_not_waited_for(machine: Machine) -> None:
    source, target = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    with pytest.raises(MachineError, match=r"to which a copy of thread .* is on its way"):
        machine.launch(compiled(machine, copies(1, False), WORDS, WORDS), 1, 32, source, target)


def test_a_copy_from_an_odd_place(machine: Machine) -> None:
    whole, target = np.arange(132, dtype=np.uint32), np.zeros(128, np.uint32)
    kernel = compiled(machine, copies(0, True), WORDS, WORDS)
    address = machine.put(whole)
    arguments = [0, 0, 128, 4, address + 4, 128, 4]
    with pytest.raises(MachineError, match="a copy from the odd address"):
        machine.launch(kernel, 1, 32, *arguments, target)


def multiplies(a: Any, b: Any, out: Any) -> None:
    """One tile, fragments as they lie: a [lane, 4 words], b [lane, 2]."""
    lane = cuda.threadIdx.x
    zero = np.float32(0)
    words = ptx.mma_bf16(
        zero,
        zero,
        zero,
        zero,
        a[lane * 4],
        a[lane * 4 + 1],
        a[lane * 4 + 2],
        a[lane * 4 + 3],
        b[lane * 2],
        b[lane * 2 + 1],
    )
    out[lane * 4], out[lane * 4 + 1], out[lane * 4 + 2], out[lane * 4 + 3] = words


def test_a_tile_of_bfloat16(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(-8, 8, (16, 16)).astype(np.float32)
    right = rng.integers(-8, 8, (16, 8)).astype(np.float32)

    def bits(values: Any) -> Any:
        return np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16

    a, b = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    for lane in range(32):
        group, pair = lane // 4, lane % 4 * 2
        for word, (row, k) in enumerate(
            ((group, pair), (group + 8, pair), (group, pair + 8), (group + 8, pair + 8))
        ):
            a[lane, word] = bits(left[row, k])[0] | bits(left[row, k + 1])[0] << 16
        for word, k in enumerate((pair, pair + 8)):
            b[lane, word] = bits(right[k, group])[0] | bits(right[k + 1, group])[0] << 16
    out = np.zeros((32, 4), np.float32)
    kernel = compiled(machine, multiplies, WORDS, WORDS, NUMBERS)
    machine.launch(kernel, 1, 32, a.reshape(-1), b.reshape(-1), out.reshape(-1))
    expected = left @ right
    for lane in range(32):
        group, column = lane // 4, lane % 4 * 2
        assert out[lane].tolist() == [
            *expected[group, column : column + 2],
            *expected[group + 8, column : column + 2],
        ]
    with pytest.raises(MachineError, match="mma by 16 lanes"):
        machine.launch(kernel, 1, 16, a.reshape(-1), b.reshape(-1), out.reshape(-1))


def shuffles(source: Any, up: Any, across: Any) -> None:
    lane = cuda.threadIdx.x
    up[lane] = cuda.shfl_up_sync(0xFFFFFFFF, source[lane], 3)
    across[lane] = cuda.shfl_xor_sync(0xFFFFFFFF, source[lane], 5)


def test_lanes_take_numbers_of_each_other(machine: Machine) -> None:
    source, up, across = np.arange(32, dtype=np.float32), np.zeros(32, np.float32), np.zeros(32, np.float32)
    kernel = compiled(machine, shuffles, NUMBERS, NUMBERS, NUMBERS)
    machine.launch(kernel, 1, 32, source, up, across)
    assert up.tolist() == [0, 1, 2, *range(29)]
    assert across.tolist() == [lane ^ 5 for lane in range(32)]
    with pytest.raises(MachineError, match="a shuffle by 16 lanes"):
        machine.launch(kernel, 1, 16, source, up, across)


@intrinsic  # type: ignore[untyped-decorator]  # numba-cuda has no types
def small_products(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """c + the halves of a times bytes of b: the lower two, then the upper two."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        kind = ir.FunctionType(word, [word] * 3)
        low, high = (f"dp2a.{half}.u32.u32 $0, $1, $2, $3;" for half in ("lo", "hi"))
        first = builder.call(ir.InlineAsm(kind, low, "=r,r,r,r"), args)
        return builder.call(ir.InlineAsm(kind, high, "=r,r,r,r"), [*args[:2], first])

    return types.uint32(types.uint32, types.uint32, types.uint32), generate


def adds_small_products(a: Any, b: Any, out: Any) -> None:
    at = cuda.threadIdx.x
    out[at] = small_products(a[at], b[at], out[at])


def test_sums_of_small_products(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    a, b, out = (rng.integers(0, 1 << 32, 32, np.uint32) for _ in range(3))
    low, high = a & 0xFFFF, a >> np.uint32(16)
    parts = [b >> np.uint32(8 * byte) & np.uint32(0xFF) for byte in range(4)]
    expected = out + low * parts[0] + high * parts[1] + low * parts[2] + high * parts[3]
    machine.launch(compiled(machine, adds_small_products, WORDS, WORDS, WORDS), 1, 32, a, b, out)
    assert (out == expected).all()


def meets(counter: Any, out: Any) -> None:
    """Every block waits for all others."""
    ptx.cooperative()
    if cuda.threadIdx.x == 0:
        ptx.add_released(counter, 0, 1)
        while ptx.load_acquired(counter, 0) < cuda.gridDim.x:
            pass
    cuda.syncthreads()
    out[cuda.blockIdx.x * 32 + cuda.threadIdx.x] = 1


def test_blocks_that_wait_for_each_other(machine: Machine) -> None:
    counters, out = types.Array(types.int32, 1, "C"), np.zeros(128, np.float32)
    kernel = compiled(machine, meets, counters, NUMBERS)
    machine.launch(kernel, 4, 32, np.zeros(1, np.int32), out, cooperative=True)
    assert out.all()
    with pytest.raises(MachineError, match="polls without end"):
        machine.launch(kernel, 4, 32, np.zeros(1, np.int32), out)


def test_an_instruction_that_the_machine_does_not_know() -> None:
    code = code_of(reverses, NUMBERS, NUMBERS).replace("bar.sync", "bar.arrive")
    with pytest.raises(
        UnknownError, match=r"line [0-9]+: bar.arrive\s+0: the machine does not know this barrier"
    ):
        translate(code)


def test_the_library_is_built_once(tmp_path: Path) -> None:
    first = (build(tmp_path) / "libcuda.so.1").stat().st_mtime_ns
    assert (build(tmp_path) / "libcuda.so.1").stat().st_mtime_ns == first
