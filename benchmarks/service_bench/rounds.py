"""Tuning, checking and measuring: all servers of a model take turns within each round."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from service_bench import contenders
from service_bench.contenders import BY_HAND, CALLS, INT8, MLSERVER, OURS, Placement, Server
from service_bench.load import Sample
from service_bench.models import CHARACTERS, Case

TRIAL_SECONDS = 0.7
TRIAL_SESSIONS = (1, 32, 256)
MOST_THREADS = 4
"""The most that a peer is tried with."""
PEERS = {*BY_HAND, MLSERVER}
CHECKED_STEPS = 64
OTHERS = 16
"""Tokens of them that int8 may predict otherwise: random weights leave many close to a tie."""

Say = Callable[[str], None]


def tuned(case: Case, folder: Path, name: str, seconds: float, say: Say) -> Placement:
    """The placement in which a server by hand is the fastest under this very load."""
    cores = len(os.sched_getaffinity(0))
    placements = [
        Placement(threads, in_thread)
        for threads in range(1, min(cores, MOST_THREADS) + 1)
        for in_thread in (False, True)
    ]
    rates = {}
    for placement in placements:
        with contenders.by_hand(name, case, folder, placement) as server:
            samples = [asyncio.run(server.measure("Stream", n, seconds)) for n in TRIAL_SESSIONS]
        rates[placement] = prod(sample.steps_per_second for sample in samples)
    best = max(rates, key=lambda placement: rates[placement])
    say(f"{case.title}: {name}: {best}")
    return best


def wrong_answers(servers: dict[str, Server]) -> list[str]:
    """A line for each server that predicts other tokens than Keepgate; int8 may differ in some."""
    rng = random.Random(0)
    tokens = [rng.randrange(len(CHARACTERS)) for _ in range(CHECKED_STEPS)]
    found = {name: asyncio.run(server.answers(tokens)) for name, server in servers.items()}
    return [
        f"{name} predicts {answers}, {OURS} {found[OURS]}"
        for name, answers in found.items()
        if sum(a != b for a, b in zip(answers, found[OURS], strict=True)) > (OTHERS if name == INT8 else 0)
    ]


def take(servers: dict[str, Server], sessions: list[int], seconds: float, rounds: int) -> list[list[Sample]]:
    """One list of samples a round; they have the same order in every round."""
    return [
        [
            asyncio.run(server.measure(call, count, seconds))
            for count in sessions
            for name, server in servers.items()
            for call in CALLS[name]
        ]
        for _ in range(rounds)
    ]


def summarise(rounds: list[list[Sample]]) -> list[dict[str, Any]]:
    """Medians over the rounds of each load; `ratio` is that to the fastest peer of the same round, at as many
    sessions, by whatever call."""
    rows = []
    for index, first in enumerate(rounds[0]):
        column = [samples[index] for samples in rounds]
        fastest = [
            max(s.steps_per_second for s in r if s.server in PEERS and s.sessions == first.sessions)
            for r in rounds
        ]
        row: dict[str, Any] = {"server": first.server, "call": first.call, "sessions": first.sessions}
        for name in ("steps_per_second", "p50_us", "p99_us", "server_us"):
            row[name] = round(median(getattr(sample, name) for sample in column), 1)
        ratios = (s.steps_per_second / f for s, f in zip(column, fastest, strict=True))
        row["ratio"] = round(median(ratios), 3)
        rows.append(row)
    return rows


def measure_case(
    case: Case, folder: Path, sessions: list[int], seconds: float, rounds: int, say: Say
) -> dict[str, Any]:
    """One model on all servers. seconds: of each measurement. Servers that answer wrongly are not timed."""
    trial = min(TRIAL_SECONDS, seconds)
    placements = {name: tuned(case, folder, name, trial, say) for name in BY_HAND}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(contenders.keepgate(case, folder, name)) for name in (OURS, INT8)
        }
        for name, placement in placements.items():
            servers[name] = stack.enter_context(contenders.by_hand(name, case, folder, placement))
        if contenders.mlserver_version():
            placement = placements["ONNX Runtime by hand"]
            servers[MLSERVER] = stack.enter_context(contenders.mlserver(case, folder, placement))
        wrong = wrong_answers(servers)
        samples = take(servers, sessions, seconds, rounds) if not wrong else []
    return {
        "name": case.name,
        "title": case.title,
        "settings": {name: server.settings for name, server in servers.items()},
        "wrong": wrong,
        "medians": summarise(samples) if samples else [],
        "samples": [[asdict(sample) for sample in taken] for taken in samples],
    }
