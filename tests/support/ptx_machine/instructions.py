"""Every instruction that NVVM makes of this project's kernels, as a statement in C (PTX ISA 8, chapter 9)."""

from __future__ import annotations

from support.ptx_machine.effects import EFFECTS
from support.ptx_machine.operands import C_TYPES, Handler, Kernel, UnknownError, listed

INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
COMPARISONS |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


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
        (low, high), part = listed(target), _half(kind)
        whole = kernel.operand(source, kind)
        return f"{kernel.assign(low, whole, part)} {kernel.assign(high, f'{whole} >> {part[1:]}', part)}"
    if source.startswith("{"):
        part = _half(kind)
        low, high = (f"({C_TYPES[kind]}){kernel.operand(half, part)}" for half in listed(source))
        return kernel.assign(target, f"{low} | {high} << {part[1:]}", kind)
    return kernel.assign(target, kernel.operand(source, kind), kind)


def _half(kind: str) -> str:
    """The type of either half of a register."""
    return f"b{int(kind[1:]) // 2}"


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


def _dot(kernel: Kernel, modifiers: list[str], operands: list[str]) -> str:
    """Two products of a 16-bit and an 8-bit number, summed: NVVM takes it for sums of small products."""
    if modifiers not in (["lo", "u32", "u32"], ["hi", "u32", "u32"]):
        raise UnknownError("dot product")
    a, b, c = (kernel.operand(operand, "u32") for operand in operands[1:])
    first = 0 if modifiers[0] == "lo" else 16
    low, high = (f"({b} >> {first + bits} & 0xff)" for bits in (0, 8))
    return kernel.assign(operands[0], f"({a} & 0xffff) * {low} + ({a} >> 16) * {high} + {c}", "u32")


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


HANDLERS: dict[str, Handler] = {
    **{name: _infix(sign) for name, sign in INFIX.items()},
    **{"bra": _branch, "ret": _end, "exit": _end, "mov": _move, "mul": _multiply, "mad": _multiply_add},
    **{"shl": _shift("<<"), "shr": _shift(">>"), "bfi": _insert, "dp2a": _dot},
    **{"div": _divide, "rem": _remainder, "min": _extreme("<", "fmin"), "max": _extreme(">", "fmax")},
    **{"neg": _negate, "not": _invert, "abs": _absolute, "fma": _fused, "rcp": _reciprocal},
    **{"setp": _compare, "selp": _select, "cvt": _convert, "cvta": _move},
    **EFFECTS,
}
