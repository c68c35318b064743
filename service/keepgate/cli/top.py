"""keepgate top: what a server is doing, live in a terminal."""

# ruff: noqa: PLC0415 - imports that take long are made by the commands that need them

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepgate.cli.output import Json, console, fail, print_json, server_address, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from keepgate.telemetry.frame import Frame, ModelFrame, Snapshot

DEFAULT_ADDRESS = "127.0.0.1:8002"
TIMEOUT_SECONDS = 3.0
MAX_BYTES = 64 << 20
"""Of a document; a real one has some hundred KiB."""
HTTP_OK = 200
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
NOTHING = "-"
DROPPED = ("SLOTS", "QUEUE", "WAITING", "RESIDENT", "MEMORY", "STORE", "EVICTED/S", "BATCH", "P50")
"""Columns that a narrow terminal does without, the first first."""

Http = Annotated[
    str,
    typer.Option(
        "--http",
        envvar="KEEPGATE_HTTP_ADDRESS",
        metavar="ADDRESS",
        help="The server's http_address, host:port.",
        callback=server_address,
    ),
]
Once = Annotated[bool, typer.Option("--once", help="Print one frame, of one interval, and exit.")]
Interval = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="Seconds between two looks.")
]


def top(
    http: Http = DEFAULT_ADDRESS, once: Once = False, as_json: Json = False, interval: Interval = 1.0
) -> None:
    """Watch models, sessions, rates, batches and latency of a server; ends with Ctrl-C.

    Figures are those of the last interval. Piped, each frame is printed below the one before.
    """
    import dataclasses
    import json

    frames = _frames(http, interval)
    out = console()
    try:
        if as_json:
            for frame in frames:
                document = dataclasses.asdict(frame)
                if once:
                    print_json(document)
                    return
                typer.echo(json.dumps(document, ensure_ascii=False))
        elif once or not out.is_terminal:
            for frame in frames:
                out.print(draw(frame, http, out.width))
                if once:
                    return
                out.print()
        else:
            _live(frames, http)
    except KeyboardInterrupt:
        return


def _live(frames: Iterator[Frame], http: str) -> None:
    from rich.live import Live

    out = console()
    with Live(console=out, screen=True, auto_refresh=False) as live:
        live.update(f"{http}: looking for a first interval", refresh=True)
        for frame in frames:
            live.update(draw(frame, http, out.width), refresh=True)


def _frames(http: str, interval: float) -> Iterator[Frame]:
    """A frame after each interval, till nobody wants more. Fails the command if nothing answers."""
    import time

    from keepgate.telemetry.frame import frame_of

    before = _look(http)
    while True:
        time.sleep(interval)
        after = _look(http)
        yield frame_of(before, after, time.time())
        before = after


def _look(address: str) -> Snapshot:
    """The server's metrics now."""
    import time
    from http.client import HTTPConnection, HTTPException

    from keepgate.telemetry.frame import Snapshot

    try:
        # No proxy, whatever the environment says: this is the operator's own network.
        connection = HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            text = answer.read(MAX_BYTES).decode(errors="replace")
        finally:
            connection.close()
        if answer.status != HTTP_OK:
            raise ValueError(f"{answer.status} {answer.reason}")
        return Snapshot(text, time.monotonic())
    except (OSError, ValueError, HTTPException) as error:
        fail(
            f"no Keepgate server tells its metrics at {address}.\n"
            "Start one with 'keepgate serve', or name its http_address with --http ADDRESS or "
            f"KEEPGATE_HTTP_ADDRESS.\n({error or type(error).__name__})"
        )


def draw(frame: Frame, address: str, width: int) -> RenderableType:
    """A frame for people, at most `width` columns wide if that is possible."""
    from rich.console import Group
    from rich.text import Text

    head = Text.assemble(
        ("keepgate", "bold"),
        f" {frame.version} at {address}   up {_duration(frame.up)}   {frame.kernel}",
    )
    line = Text(
        f"calls/s {_rate(frame.calls)}   failed/s {_rate(frame.failed)}   in flight {frame.in_flight:,}   "
        f"cores {frame.cpu:.2f}   memory {size(frame.memory)}"
    )
    parts: list[RenderableType] = [head, line]
    if frame.failing_stores:
        parts.append(Text(f"store fails: {', '.join(frame.failing_stores)}", style="bold red"))
    return Group(*parts, Text(), _table(frame.models, width))


def _table(models: Sequence[ModelFrame], width: int) -> Table:
    from rich.table import Table

    rows = [_row(model) for model in models]
    columns = list(rows[0]) if rows else []
    for heading in DROPPED:
        taken = (max(len(heading), *(len(row[heading]) for row in rows)) + 2 for heading in columns)
        if not columns or sum(taken) - 2 <= width:
            break
        columns.remove(heading)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "MODEL" else "right", no_wrap=True)
    for model, row in zip(models, rows, strict=True):
        table.add_row(*(row[heading] for heading in columns), style="dim" if model.is_retired else "")
    return table


def _row(model: ModelFrame) -> dict[str, str]:
    return {
        "MODEL": f"{model.name}/{model.version}{' retired' if model.is_retired else ''}",
        "SESSIONS": f"{model.resident + model.memory + model.store:,}",
        "RESIDENT": f"{model.resident:,}",
        "MEMORY": f"{model.memory:,}",
        "STORE": f"{model.store:,}",
        "SLOTS": f"{100 * model.slots_used / model.slots:.0f} %" if model.slots else NOTHING,
        "STEPS/S": _rate(model.steps),
        "BATCH": NOTHING if model.batch is None else f"{model.batch:.1f}",
        "P50": _time(model.p50),
        "P99": _time(model.p99),
        "QUEUE": _time(model.queue),
        "WAITING": f"{model.waiting:,}",
        "ERRORS/S": _rate(model.errors),
        "EVICTED/S": _rate(model.evictions),
    }


def _rate(value: float) -> str:
    return NOTHING if not value else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _time(seconds: float | None) -> str:
    """0.00123 is "1.23 ms"."""
    if seconds is None:
        return NOTHING
    unit, name = next((pair for pair in UNITS if seconds >= pair[0]), UNITS[-1])
    return f"{seconds / unit:.3g} {name}"


def _duration(seconds: float) -> str:
    """3,700 is "1 h 1 min"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
