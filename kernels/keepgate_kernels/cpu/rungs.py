"""The ladder of vector instruction sets.

A rung says how wide vectors are and which instruction multiplies each precision. The widest that the
processor has is taken, or the one that $KEEPGATE_CPU names, so that every rung a machine can run can be
tried on it.
"""

from __future__ import annotations

from typing import NamedTuple

import llvmlite.binding

from keepgate_kernels.cpu.dots import (
    BF16_DOT,
    BF16_WIDENED,
    FP32,
    INT8_PAIRS_256,
    INT8_PAIRS_512,
    INT8_SDOT,
    INT8_VNNI_256,
    INT8_VNNI_512,
    INT8_WIDENED,
    Dot,
)


class Rung(NamedTuple):
    """lanes: float32 numbers of a vector. fused: multiply-add rounds once. needs: sets of the
    processor's features, as LLVM names them; any one of the sets is enough."""

    name: str
    lanes: int
    fused: bool
    needs: tuple[frozenset[str], ...]
    fp32: Dot
    bf16: Dot
    int8: Dot

    def runs_on(self, features: frozenset[str]) -> bool:
        """Whether a processor with those features can run it."""
        return any(needs <= features for needs in self.needs)

    def dot(self, precision: str) -> Dot:
        """How this rung multiplies in a precision."""
        dot: Dot = getattr(self, precision)
        return dot


_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
_AVX2 = frozenset({"avx2", "fma"})
_VNNI = (_AVX2 | {"avxvnni"}, _AVX2 | {"avx512vl", "avx512vnni"})

RUNGS = (
    Rung("avx512-bf16", 16, True, (_AVX512 | {"avx512vnni", "avx512bf16"},), FP32, BF16_DOT, INT8_VNNI_512),
    Rung("avx512-vnni", 16, True, (_AVX512 | {"avx512vnni"},), FP32, BF16_WIDENED, INT8_VNNI_512),
    Rung("avx512", 16, True, (_AVX512,), FP32, BF16_WIDENED, INT8_PAIRS_512),
    Rung("avx2-vnni", 8, True, _VNNI, FP32, BF16_WIDENED, INT8_VNNI_256),
    Rung("avx2", 8, True, (_AVX2,), FP32, BF16_WIDENED, INT8_PAIRS_256),
    Rung("neon-dotprod", 4, True, (frozenset({"neon", "dotprod"}),), FP32, BF16_WIDENED, INT8_SDOT),
    Rung("portable", 4, False, (frozenset(),), FP32, BF16_WIDENED, INT8_WIDENED),
)
"""Best first."""

VARIABLE = "KEEPGATE_CPU"


class RungError(ValueError):
    """KEEPGATE_CPU names a rung that does not exist, or that this processor can't stand on."""


def host_features() -> frozenset[str]:
    """The processor's features, as LLVM names them."""
    return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)


def available() -> tuple[Rung, ...]:
    """The rungs that this processor can run, best first."""
    features = host_features()
    return tuple(rung for rung in RUNGS if rung.runs_on(features))


def choose(name: str | None) -> Rung:
    """The rung of that name, or without one the best. Raises RungError."""
    if not name:
        return available()[0]
    by_name = {rung.name: rung for rung in RUNGS}
    if name not in by_name:
        raise RungError(f"{VARIABLE}: got {name!r}, expected one of {', '.join(by_name)}")
    if by_name[name] not in available():
        needed = " or ".join(" ".join(sorted(needs)) for needs in by_name[name].needs)
        runs = ", ".join(rung.name for rung in available())
        raise RungError(f"{VARIABLE}: got {name!r}, which needs {needed}; this processor runs {runs}")
    return by_name[name]
