"""Every instruction that NVVM makes of this project's kernels, as a statement in C (PTX ISA 8, chapter 9)."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.ptx_machine.operands import C_TYPES, Kernel, UnknownError, listed

INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARISONS |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


Handler = Callable[[Kernel, list[str], list[str]], str]


def statement(kernel: Kernel, operation: str, operands: list[str]) -> str:
    """One instruction in C."""
    name, *modifiers = operation.split(".")
    handler = HANDLERS.get(name)
    if handler is None:
        raise UnknownError("instruction")
    return handler(kernel, modifiers, operands)


def _branch(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    return f"goto {operands[0].replace('$', '')};"


def _end(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    return "return ENDED;"


def _move(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind, (target, source) = modifiers[-1], operands
    if target.startswith("{"):
        low, high = listed(target)
        whole = kernel.operand(source, "u64")
        return " ".join(
            (
                kernel.assign(low, f"(uint32_t)({whole})", "b32"),
                kernel.assign(high, f"(uint32_t)(({whole}) >> 32)", "b32"),
            )
        )
    if source.startswith("{"):
        low, high = (kernel.operand(part, "b32") for part in listed(source))
        return kernel.assign(target, f"(uint64_t){low} | (uint64_t){high} << 32", "b64")
    return kernel.assign(target, kernel.operand(source, kind), kind)


def _infix(sign: str) -> Handler:
    def make(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
        kind = modifiers[-1]
        a, b = (kernel.operand(operand, kind.replace("s", "u")) for operand in operands[1:])
        return kernel.assign(operands[0], f"{a} {sign} {b}", kind.replace("s", "u"))

    return make


def _multiply(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    a, b = (kernel.operand(operand, kind) for operand in operands[1:3])
    if kind in ("f32", "f64"):
        return kernel.assign(operands[0], f"{a} * {b}", kind)
    if "lo" in modifiers:
        plain = kind.replace("s", "u")
        a, b = (kernel.operand(operand, plain) for operand in operands[1:3])
        return kernel.assign(operands[0], f"{a} * {b}", plain)
    bits, sign = int(kind[1:]), "" if kind[0] == "s" else "unsigned "
    wide = f"({sign}__int128){a} * ({sign}__int128){b}"
    if "wide" in modifiers:
        return kernel.assign(operands[0], wide, f"{kind[0]}{2 * bits}")
    if "hi" in modifiers:
        return kernel.assign(operands[0], f"({wide}) >> {bits}", kind)
    raise UnknownError("multiplication")


def _multiply_add(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    if modifiers[0] not in ("lo", "wide"):
        raise UnknownError("multiply-add")
    kind = modifiers[-1]
    a, b = (kernel.operand(operand, kind) for operand in operands[1:3])
    result = kind if modifiers[0] == "lo" else f"{kind[0]}{2 * int(kind[1:])}"
    c = kernel.operand(operands[3], result)
    unsigned = C_TYPES[result.replace("s", "u")]
    wide = C_TYPES[result]
    return kernel.assign(
        operands[0], f"({unsigned})({wide}){a} * ({unsigned})({wide}){b} + ({unsigned}){c}", result
    )


def _shift(sign: str) -> Handler:
    def make(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
        kind = modifiers[-1]
        bits, a, b = int(kind[1:]), kernel.operand(operands[1], kind), kernel.operand(operands[2], "u32")
        if kind[0] == "s":
            return kernel.assign(operands[0], f"{a} >> ({b} < {bits} ? {b} : {bits - 1})", kind)
        return kernel.assign(operands[0], f"{b} < {bits} ? {a} {sign} {b} : 0", kind)

    return make


def _insert(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    a, b = (kernel.operand(operand, kind) for operand in operands[1:3])
    at, length = (kernel.operand(operand, "u32") for operand in operands[3:])
    return kernel.assign(operands[0], f"inserted({a}, {b}, {at}, {length}, {kind[1:]})", kind)


def _divide(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    a, b = (kernel.operand(operand, kind) for operand in operands[1:])
    if kind in ("f32", "f64"):
        if "rn" not in modifiers:
            raise UnknownError("division")
        return kernel.assign(operands[0], f"{a} / {b}", kind)
    divided = "divided" if kind[0] == "s" else "divided_unsigned"
    return kernel.assign(operands[0], f"{divided}(t, {a}, {b})", kind)


def _remainder(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    a, b = (kernel.operand(operand, kind) for operand in operands[1:])
    divided = "divided" if kind[0] == "s" else "divided_unsigned"
    return kernel.assign(operands[0], f"{a} - {b} * ({C_TYPES[kind]}){divided}(t, {a}, {b})", kind)


def _extreme(sign: str, of_float: str) -> Handler:
    def make(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
        kind = modifiers[-1]
        a, b = (kernel.operand(operand, kind) for operand in operands[1:])
        if kind in ("f32", "f64"):
            return kernel.assign(operands[0], f"{of_float}{'f' if kind == 'f32' else ''}({a}, {b})", kind)
        return kernel.assign(operands[0], f"{a} {sign} {b} ? {a} : {b}", kind)

    return make


def _negate(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    return kernel.assign(operands[0], f"-{kernel.operand(operands[1], modifiers[-1])}", modifiers[-1])


def _invert(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    sign = "!" if kind == "pred" else "~"
    return kernel.assign(operands[0], f"{sign}{kernel.operand(operands[1], kind)}", kind)


def _absolute(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    if kind not in ("f32", "f64"):
        raise UnknownError("absolute value")
    name = "fabsf" if kind == "f32" else "fabs"
    return kernel.assign(operands[0], f"{name}({kernel.operand(operands[1], kind)})", kind)


def _fused(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    if modifiers[0] != "rn":
        raise UnknownError("rounding")
    a, b, c = (kernel.operand(operand, kind) for operand in operands[1:])
    return kernel.assign(operands[0], f"{'fmaf' if kind == 'f32' else 'fma'}({a}, {b}, {c})", kind)


def _reciprocal(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind, source = modifiers[-1], kernel.operand(operands[1], modifiers[-1])
    if modifiers == ["approx", "ftz", "f64"]:
        return kernel.assign(operands[0], f"coarse_reciprocal({source})", kind)
    if modifiers[0] != "rn":
        raise UnknownError("reciprocal")
    return kernel.assign(operands[0], f"1 / {source}", kind)


def _compare(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    comparison, kind = modifiers
    a, b = (kernel.operand(operand, kind) for operand in operands[1:])
    if kind in ("f32", "f64") and comparison not in COMPARISONS:
        either, test = f"isunordered({a}, {b})", COMPARISONS.get(comparison.removesuffix("u"))
        if comparison in ("nan", "num"):
            return kernel.assign(operands[0], either if comparison == "nan" else f"!{either}", "pred")
        if test is None:
            raise UnknownError("comparison")
        return kernel.assign(operands[0], f"{either} || {a} {test} {b}", "pred")
    ordered = f" && !isunordered({a}, {b})" if comparison == "ne" and kind in ("f32", "f64") else ""
    return kernel.assign(operands[0], f"{a} {COMPARISONS[comparison]} {b}{ordered}", "pred")


def _select(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    kind = modifiers[-1]
    a, b = (kernel.operand(operand, kind) for operand in operands[1:3])
    return kernel.assign(operands[0], f"{kernel.operand(operands[3], 'pred')} ? {a} : {b}", kind)


def _convert(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    *how, to, of = modifiers
    floats = ("f32", "f64")
    rounds = to in floats and (of not in floats or (to, of) == ("f32", "f64"))
    if how != (["rn"] if rounds else []) or (to not in floats and of in floats):
        raise UnknownError("conversion")
    return kernel.assign(operands[0], kernel.operand(operands[1], of), to)


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


def _atomic(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    if modifiers != ["global", "add", "u32"]:
        raise UnknownError("atomic")
    added = f"machine_add32(t, {kernel.address(operands[1])}, {kernel.operand(operands[2], 'u32')})"
    return kernel.assign(operands[0], added, "u32")


def _barrier(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    if modifiers == ["sync"] and operands == ["0"]:
        return kernel.wait("BLOCK")
    if modifiers == ["warp", "sync"] and operands == ["-1"]:
        return f"t->operation = SYNC; {kernel.wait('WARP')}"
    raise UnknownError("barrier")


def _fence(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    return ";"  # memory is one, and seen by all at once


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


HANDLERS: dict[str, Handler] = {
    **{name: _infix(sign) for name, sign in INFIX.items()},
    **{"bra": _branch, "ret": _end, "exit": _end, "mov": _move, "mul": _multiply, "mad": _multiply_add},
    **{"shl": _shift("<<"), "shr": _shift(">>"), "bfi": _insert},
    **{"div": _divide, "rem": _remainder, "min": _extreme("<", "fmin"), "max": _extreme(">", "fmax")},
    **{"neg": _negate, "not": _invert, "abs": _absolute, "fma": _fused, "rcp": _reciprocal},
    **{"setp": _compare, "selp": _select, "cvt": _convert, "ld": _load, "st": _store, "atom": _atomic},
    **{"bar": _barrier, "barrier": _barrier, "membar": _fence, "fence": _fence, "cp": _copy, "mma": _mma},
    **{"cvta": _move, "shfl": _shuffle},
}
