"""How long the fault suite goes on, and the processes that its tests take turns with.

FAULTS=long is for nights, FAULTS=short (the default) for minutes. FAULT_ROUNDS and FAULT_SEED override.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.checker import Report, check
from faults.fleet import Seat
from faults.load import Load
from faults.oracle import uninterrupted
from support.servers import ServerProcess

SHORT_ROUNDS, LONG_ROUNDS = 8, 300

Judge = Callable[..., Awaitable[Report]]


@dataclass(frozen=True)
class Length:
    """rounds: of kills in a row. seed: of scripts and moments."""

    rounds: int
    seed: int

    def some(self, share: float) -> int:
        """Rounds of what is done less often."""
        return max(2, round(self.rounds * share))


@pytest.fixture(scope="session")
def length() -> Length:
    long = {"short": False, "long": True}[os.environ.get("FAULTS", "short")]
    rounds = int(os.environ.get("FAULT_ROUNDS", LONG_ROUNDS if long else SHORT_ROUNDS))
    return Length(rounds, int(os.environ.get("FAULT_SEED", "1")))


@pytest.fixture
def seat(repository: Path, tmp_path: Path) -> Iterator[Callable[..., Seat]]:
    """A factory of addresses with servers: seat(store=..., durability="always"). Nothing runs after the
    test."""
    seats: list[Seat] = []

    def make(**settings: object) -> Seat:
        seats.append(Seat(tmp_path / "servers", {"models": repository, **settings}))
        return seats[-1]

    yield make
    for made in seats:
        made.cleanup()


@pytest.fixture
def judge(server: ServerProcess) -> Judge:
    """Compares what a load saw with an uninterrupted run, prints the figures and fails if anything is
    wrong."""

    async def judged(load: Load, title: str, **allowed: float) -> Report:
        run = await asyncio.wait_for(uninterrupted(server.address, load), 1_800)
        report = check(load.history, run, **allowed)
        retries = sum(load.history.failures.values())
        print(f"\n{title}: {len(load.history.kills)} kills, {report}")
        print(f"{retries} calls failed: {dict(load.history.failures.most_common(8))}")
        assert report.answers > 0
        assert not report.faults, str(report)
        return report

    return judged
