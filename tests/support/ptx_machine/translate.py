"""PTX to C: one function a kernel, which runs a thread until it waits for others, or ends.

`python translate.py kernels.ptx kernels.so` makes the library that `driver.c` loads. Only what NVVM makes of
this project's kernels is known; anything else is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from support.ptx_machine.instructions import statement
from support.ptx_machine.operands import REGISTERS, Kernel, Parameter, UnknownError, split_operands

FOLDER = Path(__file__).parent
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\S+?)\[(\d*)\];")
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.[busf](\d+)\s+([^\s,\[]+)(?:\[(\d+)\])?")


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def shared_symbols(code: str) -> tuple[dict[str, int], int]:
    """Where each array of shared memory lies, and the bytes of those of a fixed size, before the others."""
    symbols: dict[str, int] = {}
    size, alignments, dynamic = 0, [1], []
    for alignment, name, length in SHARED.findall(code):
        if not length:
            dynamic.append(name)
            alignments.append(int(alignment))
            continue
        size = _aligned(size, int(alignment))
        symbols[name] = size
        size += int(length)
    size = _aligned(size, max(alignments))
    return symbols | dict.fromkeys(dynamic, size), size


def parameters_of(text: str) -> dict[str, Parameter]:
    """Of an entry's list."""
    found: dict[str, Parameter] = {}
    offset = 0
    for alignment, bits, name, length in PARAMETER.findall(text):
        size = int(bits) // 8 * int(length or 1)
        offset = _aligned(offset, int(alignment or size))
        found[name] = Parameter(offset, size)
        offset += size
    return found


def _body(kernel: Kernel, lines: list[str], first: int) -> list[str]:
    made: list[str] = []
    for number, line in enumerate(lines, first):
        kernel.line = number
        whole = line.split("//")[0].strip()
        # Inline code may hold several statements in braces, with registers of their own.
        texts = whole.strip("{} ").split("; ") if whole.startswith("{") else [whole]
        made += [_line(kernel, text.rstrip(";")) for text in texts]
    return [code for code in made if code]


def _line(kernel: Kernel, text: str) -> str:
    """A statement, a label or a declaration in C."""
    if text in ("", "{", "}") or text.startswith(".pragma"):
        return ""
    if text.startswith(".reg"):
        if match := re.fullmatch(r"\.reg\s+\.pred\s+(\w+)", text):
            kernel.named.add(match[1])
        return ""
    if label := re.fullmatch(r"(\$\w+):", text):
        return f"{label[1].replace('$', '')}:;"
    match = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", text)
    try:
        if not match:
            raise UnknownError("line")
        code = statement(kernel, match[3], split_operands(match[4]))
        if match[2]:
            if "t->resume" in code:
                raise UnknownError("waiting under a condition")
            code = f"if ({match[1]}{kernel.operand(match[2], 'pred')}) {{ {code} }}"
    except UnknownError as error:
        raise UnknownError(f"line {kernel.line}: {text}: the machine does not know this {error}") from error
    return code


def entry(name: str, number: int, parameters: str, lines: list[str], first: int, code: str) -> str:
    """A kernel in C, with its record `kernel_<number>`."""
    symbols, size = shared_symbols(code)
    kernel = Kernel(name, parameters_of(parameters), symbols)
    made = _body(kernel, lines, first)
    registers = " ".join(
        f"{c_type} {letter}[{kernel.registers.get(letter, 1)}];" for letter, c_type in REGISTERS.items()
    )
    named = " ".join(f"bool named_{name} = false;" for name in sorted(kernel.named))
    cases = " ".join(f"case {at}: goto R{at};" for at in range(1, kernel.resumes + 1))
    offsets = ", ".join(str(parameter.offset) for parameter in kernel.parameters.values()) or "0"
    sizes = ", ".join(str(parameter.size) for parameter in kernel.parameters.values()) or "0"
    body = "\n    ".join(made)
    return f"""
typedef struct {{ Thread thread; {registers} }} Registers_{number};

static int run_{number}(Thread *t) {{
    Registers_{number} *r = (Registers_{number} *)t;
    uint32_t temporary = 0;
    uint64_t address = 0;
    {named}
    (void)temporary; (void)address;
    switch (t->resume) {{ {cases} }}
    {body}
    return ENDED;
}}

static const uint32_t offsets_{number}[] = {{ {offsets} }}, sizes_{number}[] = {{ {sizes} }};
static const Kernel kernel_{number} = {{
    "{name}", sizeof(Registers_{number}), {size}, 0, {len(kernel.parameters)},
    offsets_{number}, sizes_{number}, run_{number}
}};
"""


def translate(code: str) -> str:
    """A module in C. Raises UnknownError."""
    made = ['#include "thread.h"\n#include <stdbool.h>\n']
    count = 0
    pattern = re.compile(r"\.entry\s+([^\s(]+)\s*\((.*?)\)[^{]*\{", re.DOTALL)
    for match in pattern.finditer(code):
        end = code.index("\n}", match.end())
        first = code.count("\n", 0, match.end()) + 1
        made.append(entry(match[1], count, match[2], code[match.end() : end].split("\n"), first, code))
        count += 1
    if not count:
        raise UnknownError("the module has no entry")
    made.append(
        f"const Kernel *const kernels[] = {{ {', '.join(f'&kernel_{n}' for n in range(count))}, 0 }};\n"
    )
    return "".join(made)


def compile_module(code: str, target: Path) -> None:
    """Translate a module and compile it to a shared library. Raises UnknownError."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.c"
        made.write_text(translate(code))
        partial = target.with_suffix(f".{os.getpid()}")
        options = ("-O1", "-ffp-contract=off", "-fwrapv", "-shared", "-fPIC", "-w", f"-I{FOLDER}")
        subprocess.run(["cc", *options, made, "-o", partial, "-lm"], check=True)
        partial.replace(target)


if __name__ == "__main__":
    compile_module(Path(sys.argv[1]).read_text().rstrip("\0"), Path(sys.argv[2]))
