"""What durability costs: the same load on servers of each level, in one run.

Sessions step over one Stream, each sending its next step when the last is answered, as in rpc.py. The servers
take turns within each round; medians over the rounds are shown, and ratios to `none` of the same round. Redis
is measured where a `redis-server` is installed, with an append-only file that is written and synced at every
commit.

    python benchmarks/durability.py [--seconds 2] [--rounds 5] [--store DIRECTORY] [--json PATH]
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from keepgate.config import BUNDLED_MODELS
from rich.console import Console
from rich.table import Table
from rpc import HERE, machine
from service_bench.load import Sample, Target, measure
from service_bench.processes import keepgate_server, process

REDIS_SECONDS = 10.0
BASE = "none"


@contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """The URL of a Redis of one's own, or None if there is none to start."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    options = [
        "--port",
        port,
        "--dir",
        str(folder),
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]
    with process([program, *options, "--logfile", str(folder / "redis.log")]):
        deadline = time.monotonic() + REDIS_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def levels(folder: Path, model: str) -> Iterator[list[Target]]:
    """A server for each level of durability in each store."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        wanted = [(BASE, "", "none")]
        for level in ("everysec", "always"):
            wanted.append((f"{level} sqlite", f"sqlite:{folder / level}.db", level))
            if redis is not None:
                wanted.append((f"{level} redis", redis, level))
        targets = []
        for name, url, level in wanted:
            home = folder / name.replace(" ", "-")
            home.mkdir()
            (home / "models").symlink_to(BUNDLED_MODELS)
            settings = {"KEEPGATE_STORE": url, "KEEPGATE_DURABILITY": level}
            (target,) = stack.enter_context(keepgate_server(home, [model], **settings))
            targets.append(Target(name, target.address, target.pid, model))
        yield targets


def summarise(rounds: list[list[Sample]]) -> list[dict[str, Any]]:
    """Medians over the rounds of each load, and the median ratio to the server without durability."""
    rows = []
    for index, first in enumerate(rounds[0]):
        column = [samples[index] for samples in rounds]
        bases = [next(s for s in r if (s.server, s.sessions) == (BASE, first.sessions)) for r in rounds]
        row: dict[str, Any] = {"server": first.server, "sessions": first.sessions}
        for name in ("steps_per_second", "p50_us", "p99_us", "server_us"):
            row[name] = median(getattr(sample, name) for sample in column)
        for name in ("steps_per_second", "server_us"):
            ratios = [getattr(s, name) / getattr(b, name) for s, b in zip(column, bases, strict=True)]
            row[f"{name}_ratio"] = median(ratios)
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Steps at each level of durability (medians)", title_justify="left")
    for name in ("sessions", "durability"):
        table.add_column(name, no_wrap=True)
    for name in ("steps/s", "of none", "p50 us", "p99 us", "server us", "of none"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(
            str(row["sessions"]),
            row["server"],
            f"{row['steps_per_second']:,.0f}",
            f"{row['steps_per_second_ratio']:.0%}",
            f"{row['p50_us']:,.0f}",
            f"{row['p99_us']:,.0f}",
            f"{row['server_us']:,.0f}",
            f"{row['server_us_ratio']:.0%}",
            end_section=index + 1 == len(rows) or rows[index + 1]["sessions"] != row["sessions"],
        )
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is taken.")] = 5,
    sessions: Annotated[list[int] | None, typer.Option(min=1, help="Concurrent sessions.")] = None,
    model: Annotated[str, typer.Option(help="A bundled model.")] = "shakespeare-lstm",
    store: Annotated[Path | None, typer.Option(help="Directory on the disk to measure.")] = None,
    json_path: Annotated[Path, typer.Option("--json", help="Where the figures go.")] = HERE
    / "results"
    / "durability.json",
) -> None:
    """Measure what each level of durability costs."""
    facts = machine()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="keepgate-benchmark-", dir=store))
        targets = stack.enter_context(levels(Path(folder), model))
        taken = [
            [
                asyncio.run(measure(target, "Stream", count, seconds))
                for count in sessions or [1, 64, 1_024]
                for target in targets
            ]
            for _ in range(rounds)
        ]
    rows = summarise(taken)
    show(rows)
    document = {
        "benchmark": "durability",
        "machine": facts,
        "seconds": seconds,
        "rounds": rounds,
        "medians": rows,
        "samples": [[asdict(sample) for sample in samples] for samples in taken],
    }
    json_path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
