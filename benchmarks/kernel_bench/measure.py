"""A case's contenders: built, checked against the oracle, the fastest variants chosen, timed in turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from types import ModuleType
from typing import Any

from keepgate_kernels import PRECISIONS, CellKind

from kernel_bench import limits, ours, tokens
from kernel_bench.peers import onnx_runtime, openvino, pytorch
from kernel_bench.problem import TOLERANCE, Contender, Problem, UnavailableError
from kernel_bench.rounds import alternate, fastest

PEERS: tuple[ModuleType, ...] = (pytorch, onnx_runtime, openvino)


class Measurement:
    """Measures cases, and keeps what could not be measured and why."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.left_out: dict[str, str] = {}
        self.wrong: list[str] = []

    def case(self, kind: CellKind, hidden: int, batch: int) -> dict[str, Any]:
        """The figures of one cell, size and batch, as they go into the JSON file."""
        problem = Problem.random(kind, hidden, batch)
        where = f"{kind.value} H={hidden} batch={batch}"
        chosen: list[tuple[Contender, float]] = []
        for precision in PRECISIONS:
            chosen += self._checked(ours.contenders(problem, precision), where)
        for peer in PEERS:
            for precision in peer.PRECISIONS:
                try:
                    variants = self._checked(peer.contenders(problem, precision), where)
                except UnavailableError as reason:
                    self.left_out[f"{peer.LIBRARY} {precision}"] = str(reason)
                    continue
                chosen += _fastest(variants)
        for precision in TOLERANCE:
            chosen += _fastest([(stream, 0.0) for stream in limits.streams(problem, precision)])
        chosen += [(peak, 0.0) for peak in limits.peaks()]
        return {
            "cell": kind.value,
            "hidden": hidden,
            "batch": batch,
            "weights": problem.weights,
            "operations": problem.operations,
            "state_bytes": problem.state_bytes,
            "entries": self._timed(chosen),
        }

    def token_case(self) -> dict[str, Any]:
        """The figures of the token model."""
        chosen: list[tuple[Contender, float]] = []
        for precision in PRECISIONS:
            chosen += self._checked(tokens.contenders(precision), "token model")
        return {
            "description": tokens.description(),
            "sessions": tokens.SESSIONS,
            "entries": self._timed(chosen),
        }

    def _checked(self, variants: Iterable[Contender], where: str) -> list[tuple[Contender, float]]:
        """The variants that agree with the oracle, with their errors."""
        right = []
        for variant in variants:
            error = variant.error()
            if error <= TOLERANCE[variant.precision]:
                right.append((variant, error))
            else:
                self.wrong.append(f"{where}: {variant.name} ({variant.variant}) is off by {error:.2g}")
        return right

    def _timed(self, chosen: list[tuple[Contender, float]]) -> list[dict[str, Any]]:
        timings = alternate([contender for contender, _ in chosen], self.rounds)
        return [
            {
                "library": contender.library,
                "precision": contender.precision,
                "variant": contender.variant,
                "note": contender.note,
                "largest_error": error,
                **({} if contender.operations is None else {"operations": contender.operations}),
                **asdict(timing),
            }
            for (contender, error), timing in zip(chosen, timings, strict=True)
        ]


def _fastest(variants: list[tuple[Contender, float]]) -> list[tuple[Contender, float]]:
    if not variants:
        return []
    winner = fastest([contender for contender, _ in variants])
    return [pair for pair in variants if pair[0] is winner]
