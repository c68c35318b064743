"""What an instruction of PTX names: registers, numbers, symbols and addresses, as C expressions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

C_TYPES = {
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    **{"f32": "float", "f64": "double", "pred": "bool"},
}
REGISTERS = {"p": "bool", "rs": "uint16_t", "r": "uint32_t", "rd": "uint64_t", "f": "float", "fd": "double"}
SPECIAL = {
    "%dynamic_smem_size": "t->dynamic_shared",
    **{f"%tid.{axis}": f"t->at.{axis}" for axis in "xyz"},
    **{f"%ntid.{axis}": f"t->threads.{axis}" for axis in "xyz"},
    **{f"%ctaid.{axis}": f"t->block_at.{axis}" for axis in "xyz"},
    **{f"%nctaid.{axis}": f"t->blocks.{axis}" for axis in "xyz"},
}


class UnknownError(Exception):
    """Something in the PTX that the machine does not know."""


class Parameter(NamedTuple):
    """offset, size: in the buffer that a launch brings, bytes."""

    offset: int
    size: int


class Kernel:
    """One entry: its statements in C."""

    def __init__(self, name: str, parameters: dict[str, Parameter], symbols: dict[str, int]) -> None:
        self.name, self.parameters, self.symbols = name, parameters, symbols
        self.registers: dict[str, int] = {}
        self.named: set[str] = set()
        self.resumes = self.line = 0

    def operand(self, text: str, kind: str) -> str:
        """A source as a C expression of the type."""
        c_type = C_TYPES[kind]
        if text in SPECIAL:
            return f"(({c_type}){SPECIAL[text]})"
        if text.startswith("%") or text in self.named:
            return self._register(text, kind)
        if text in self.symbols:
            return f"(({c_type}){self.symbols[text]}ull)"
        if match := re.fullmatch("0f([0-9A-Fa-f]{8})", text):
            return f"to_float(0x{match[1]}u)"
        if match := re.fullmatch("0d([0-9A-Fa-f]{16})", text):
            return f"to_double(0x{match[1]}ull)"
        if re.fullmatch("-?[0-9]+", text):
            if kind == "pred":
                return "true" if int(text) else "false"
            return f"(({c_type}){int(text) & 0xFFFFFFFFFFFFFFFF}ull)"
        raise UnknownError(f"operand {text}")

    def _register(self, text: str, kind: str) -> str:
        place, own = self.place(text), self._kind(text)
        wanted = C_TYPES[kind]
        if own == wanted:
            return place
        if "float" in (own, wanted) or "double" in (own, wanted):
            moved = {("uint32_t", "float"): "to_float", ("float", "uint32_t"): "of_float"}
            moved |= {("uint64_t", "double"): "to_double", ("double", "uint64_t"): "of_double"}
            if (own, wanted) not in moved:
                raise UnknownError(f"{text} as {kind}")
            return f"{moved[own, wanted]}({place})"
        return f"(({wanted}){place})"

    def _kind(self, text: str) -> str:
        if text in self.named:
            return "bool"
        match = re.fullmatch("%([a-z]+)[0-9]*", text)
        if not match or match[1] not in (*REGISTERS, "temp"):
            raise UnknownError(f"register {text}")
        return "uint32_t" if match[1] == "temp" else REGISTERS[match[1]]

    def place(self, text: str) -> str:
        """A register as a C place."""
        if text == "%temp":
            return "temporary"
        if text in self.named:
            return f"named_{text}"
        match = re.fullmatch("%([a-z]+)([0-9]+)", text)
        if not match or match[1] not in REGISTERS:
            raise UnknownError(f"register {text}")
        count = int(match[2]) + 1
        self.registers[match[1]] = max(count, self.registers.get(match[1], 1))
        return f"r->{match[1]}[{match[2]}]"

    def assign(self, target: str, value: str, kind: str) -> str:
        """Set a register, perhaps a wider one, to a value of the type; a signed one keeps its sign."""
        own = self._kind(target)
        moved = {("uint32_t", "f32"): "of_float", ("float", "b32"): "to_float", ("float", "u32"): "to_float"}
        moved |= {("uint64_t", "f64"): "of_double", ("double", "b64"): "to_double"}
        if (own, kind) in moved:
            return f"{self.place(target)} = {moved[own, kind]}({value});"
        if (own in ("float", "double")) != (kind in ("f32", "f64")):
            raise UnknownError(f"{target} of {kind}")
        return f"{self.place(target)} = ({C_TYPES[kind]})({value});"

    def address(self, text: str) -> str:
        """[register or symbol, perhaps + number]"""
        match = re.fullmatch(r"\[([^\]+]+)(?:\+(-?[0-9]+))?\]", text)
        if not match:
            raise UnknownError(f"address {text}")
        return f"{self.operand(match[1], 'u64')} + {int(match[2] or 0)}ll"

    def wait(self, why: str) -> str:
        """Come back to the machine, and go on behind it when called again."""
        self.resumes += 1
        return f"t->resume = {self.resumes}; return {why}; R{self.resumes}:;"


Handler = Callable[[Kernel, list[str], list[str]], str]
"""An instruction in C, of its modifiers and operands."""


def split_operands(text: str) -> list[str]:
    """By commas outside of braces and brackets."""
    return re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", text)


def listed(text: str) -> list[str]:
    """The registers of {a, b}."""
    return [part.strip() for part in text.strip("{}").split(",")]
