"""Instructions that touch memory or other threads, as statements in C (PTX ISA 8, chapter 9)."""

from __future__ import annotations

import re

from support.ptx_machine.operands import C_TYPES, Handler, Kernel, UnknownError, listed


def _load(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    space, *how, kind = modifiers
    if space == "param":
        match = re.fullmatch(r"\[([^\]+]+)(?:\+([0-9]+))?\]", operands[1])
        if not match or match[1] not in kernel.parameters:
            raise UnknownError(f"parameter {operands[1]}")
        at = kernel.parameters[match[1]].offset + int(match[2] or 0)
        return kernel.assign(operands[0], f"*(const {C_TYPES[kind]} *)(t->parameters + {at})", kind)
    if space == "acquire":
        polled = f"machine_poll(t, {kernel.address(operands[1])})"
        return f"{kernel.wait('AGAIN')} t->line = {kernel.line}; {kernel.assign(operands[0], polled, 'u32')}"
    size, place = int(kind[1:]) // 8, kernel.address(operands[1])
    targets = [operands[0]]
    if how:
        if how not in (["v2"], ["v4"]):
            raise UnknownError("load")
        targets = listed(operands[0])
    whole = size * len(targets)
    code = [f"t->line = {kernel.line};", f"address = {place};"]
    if len(targets) > 1:
        code.append(f'if (address % {whole}) machine_fault(t, "{len(targets)} numbers at an odd place");')
    for index, target in enumerate(targets):
        raw = f"machine_load(t, {space.upper()}, address + {index * size}, {size})"
        converted = {"f32": f"to_float((uint32_t){raw})", "f64": f"to_double({raw})"}
        code.append(kernel.assign(target, converted.get(kind, raw), kind))
    return " ".join(code)


def _store(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    space, *how, kind = modifiers
    sources = listed(operands[1]) if how in (["v2"], ["v4"]) else [operands[1]]
    if how and len(sources) == 1:
        raise UnknownError("store")
    size = int(kind[1:]) // 8
    code = [f"t->line = {kernel.line};", f"address = {kernel.address(operands[0])};"]
    if how:
        code.append(f'if (address % {size * len(sources)}) machine_fault(t, "numbers at an odd place");')
    for index, source in enumerate(sources):
        value = kernel.operand(source, {"f32": "b32", "f64": "b64"}.get(kind, kind.replace("s", "u")))
        code.append(f"machine_store(t, {space.upper()}, address + {index * size}, {size}, {value});")
    return " ".join(code)


def _reduce(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    if modifiers != ["release", "gpu", "global", "add", "u32"]:
        raise UnknownError("reduction")
    return f"machine_add32(t, {kernel.address(operands[0])}, {kernel.operand(operands[1], 'u32')});"


def _barrier(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    if modifiers == ["sync"] and operands == ["0"]:
        return kernel.wait("BLOCK")
    if modifiers == ["warp", "sync"] and operands == ["-1"]:
        return f"t->operation = SYNC; {kernel.wait('WARP')}"
    raise UnknownError("barrier")


def _copy(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    if modifiers == ["async", "commit_group"]:
        return "machine_commit(t);"
    if modifiers == ["async", "wait_group"]:
        return f"machine_wait(t, {int(operands[0])});"
    if modifiers != ["async", "cg", "shared", "global"]:
        raise UnknownError("copy")
    to, source, whole = kernel.address(operands[0]), kernel.address(operands[1]), int(operands[2])
    part = str(whole)
    if len(operands) > 3:
        if operands[3] in kernel.named:  # whether the source is ignored
            part = f"({kernel.operand(operands[3], 'pred')} ? 0 : {whole})"
        else:
            part = kernel.operand(operands[3], "u32")
    return f"t->line = {kernel.line}; machine_copy(t, {to}, {source}, {whole}, {part});"


def _mma(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    known = {
        "sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": "MMA_BF16",
        "sync.aligned.m16n8k32.row.col.s32.s8.s8.s32": "MMA_INT8",
    }
    which = known.get(".".join(modifiers))
    if which is None:
        raise UnknownError("mma")
    sums, a, b, c = map(listed, operands)
    code = [
        f"t->fragments[{index}] = {kernel.operand(register, 'b32')};"
        for index, register in enumerate((*a, *b, *c))
    ]
    code.append(f"t->operation = {which}; {kernel.wait('WARP')}")
    code += [
        kernel.assign(register, f"t->fragments[{6 + index}]", "b32") for index, register in enumerate(sums)
    ]
    return " ".join(code)


def _shuffle(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    how = {"sync.bfly.b32": ("SHUFFLE_XOR", 31), "sync.up.b32": ("SHUFFLE_UP", 0)}
    if (name := ".".join(modifiers)) not in how:
        raise UnknownError("shuffle")
    target, _, there = operands[0].partition("|")
    given, distance, bounds, members = (kernel.operand(operand, "b32") for operand in operands[1:])
    whole = f"{members} == UINT32_MAX && {bounds} == {how[name][1]}"
    code = f't->line = {kernel.line}; if (!({whole})) machine_fault(t, "a shuffle of part of a warp");'
    code += f"t->fragments[0] = {given}; t->fragments[1] = {distance}; t->operation = {how[name][0]};"
    code += kernel.wait("WARP") + kernel.assign(target, "t->fragments[2]", "b32")
    return code + (kernel.assign(there, "t->fragments[3]", "pred") if there else "")


EFFECTS: dict[str, Handler] = {
    **{"ld": _load, "st": _store, "red": _reduce, "cp": _copy, "mma": _mma, "shfl": _shuffle},
    **{"bar": _barrier, "barrier": _barrier},
}
