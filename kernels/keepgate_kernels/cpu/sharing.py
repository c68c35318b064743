"""How threads share the groups of a phase: one word says what is left, and whoever is free takes of it.

The word, the ticket, holds three counts: groups in all, taken from the front, taken from the back. The
thread whose step it is takes from the front, its helpers from the back: so a thread meets the same weights
step after step, in its own cache. A helper that comes late, or not at all, only leaves more to do for the
others; nothing is waited for but groups that a helper has begun.
"""

from __future__ import annotations

import platform

from llvmlite import ir

from keepgate_kernels.cpu.intrinsics import intrinsic_of
from keepgate_kernels.cpu.phase import group_size, run_blocks
from keepgate_kernels.cpu.simd import I64, Emitter
from keepgate_kernels.jit import part

BITS = 20
_COUNT = (1 << BITS) - 1
_BACK, _FRONT, _TOTAL = 1, 1 << BITS, 1 << 2 * BITS
NOTHING = -1

TICKET, DONE, OPEN = 0, 64, 128
"""Offsets of a control block: the ticket, groups done, and whether helpers may stay; a cache line each."""
CONTROL_BYTES = 192


def _load(e: Emitter, address: ir.Value) -> ir.Value:
    return e.builder.load_atomic(e.builder.inttoptr(address, I64.as_pointer()), "seq_cst", 8, typ=I64)


def _store(e: Emitter, address: ir.Value, value: ir.Value) -> None:
    e.builder.store_atomic(value, e.builder.inttoptr(address, I64.as_pointer()), "seq_cst", 8)


def _add(e: Emitter, address: ir.Value, value: ir.Value) -> ir.Value:
    return e.builder.atomic_rmw("add", e.builder.inttoptr(address, I64.as_pointer()), value, "seq_cst")


def _swap(e: Emitter, address: ir.Value, expected: ir.Value, value: ir.Value) -> ir.Value:
    """1 if the word was as expected and now holds the value, else 0."""
    pointer = e.builder.inttoptr(address, I64.as_pointer())
    result = e.builder.cmpxchg(pointer, expected, value, "seq_cst", "seq_cst")
    return e.builder.zext(e.builder.extract_value(result, 1), I64)


def _pause(e: Emitter) -> None:
    """Leave the core's other thread its share while this one waits."""
    if platform.machine() in ("x86_64", "AMD64"):
        e.call("llvm.x86.sse2.pause", ir.VoidType())


load, store, add, swap, pause = (intrinsic_of(body) for body in (_load, _store, _add, _swap, _pause))


@part(inline=True)
def _take(control, from_back):
    """The number of a group to do, or NOTHING."""
    while True:
        ticket = load(control + TICKET)
        total, front, back = ticket // _TOTAL, ticket // _FRONT & _COUNT, ticket & _COUNT
        if front + back >= total:
            return NOTHING
        if swap(control + TICKET, ticket, ticket + (_BACK if from_back else _FRONT)):
            return total - 1 - back if from_back else front


@part()
def _do(phase, group, own):
    size = group_size(phase.rows)
    first = size * group
    run_blocks(phase, first, min(first + size, phase.h.blocks), own)


@part(inline=True)
def run_alone(phase, own):
    """All blocks of a phase."""
    size = group_size(phase.rows)
    groups = (phase.h.blocks + size - 1) // size
    for index in range(groups):
        _do(phase, groups - 1 - index if phase.backwards else index, own)


@part(inline=True)
def run_shared(phase, own, control):
    """All blocks of a phase, with whatever helpers are there."""
    size = group_size(phase.rows)
    groups = (phase.h.blocks + size - 1) // size
    store(control + DONE, 0)
    store(control + TICKET, groups * _TOTAL)
    while True:
        group = _take(control, False)
        if group == NOTHING:
            break
        _do(phase, group, own)
        add(control + DONE, 1)
    while load(control + DONE) < groups:
        pause()


@part()
def help_until_closed(phase, own, control):
    """Take groups from the back until the step is over."""
    while load(control + OPEN):
        group = _take(control, True)
        if group == NOTHING:
            pause()
        else:
            _do(phase, group, own)
            add(control + DONE, 1)
