"""The figures as tables: on the terminal, and in docs/performance.md. Both have the same rows."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.table import Table

from kernel_bench import figures
from kernel_bench.figures import LARGE_BATCH, PRECISIONS, Case
from kernel_bench.machine import in_words
from kernel_bench.problem import BYTES, KERNEL, OURS

PEERS = {"PyTorch": ("fp32", "int8"), "ONNX Runtime": ("fp32", "int8"), "OpenVINO": ("fp32", "bf16")}
TITLES = {"lstm": "LSTM", "gru": "GRU"}
ABSENT = "-"

Row = list[str]


def number(value: float | None) -> str:
    """Microseconds with three digits or so."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _joined(values: list[str]) -> str:
    return ABSENT if set(values) == {ABSENT} else " / ".join(values)


def _times(case: Case, library: str, precisions: tuple[str, ...]) -> str:
    return _joined([number(figures.micros(case, library, precision)) for precision in precisions])


def _ratio(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _limit(case: Case, precision: str) -> str:
    if case["batch"] == 1:
        return _ratio(figures.streaming_multiple(case, precision))
    share = figures.peak_share(case, precision) if case["batch"] >= LARGE_BATCH else None
    return ABSENT if share is None else f"{share:.0%}"


def header(case: Case) -> Row:
    """Column titles; the precisions measured of ours are in the titles."""
    own = " / ".join(_own_precisions(case))
    kernel = [f"kernel alone {own}"] if _has_kernel(case) else []
    peers = [f"{library} {' / '.join(precisions)}" for library, precisions in PEERS.items()]
    return ["H", "batch", f"Keepgate {own}", *kernel, *peers, f"fastest peer / ours {own}", f"limit {own}"]


def row(case: Case) -> Row:
    """One size and batch."""
    own = _own_precisions(case)
    kernel = [_times(case, KERNEL, own)] if _has_kernel(case) else []
    return [
        str(case["hidden"]),
        str(case["batch"]),
        _times(case, OURS, own),
        *kernel,
        *(_times(case, library, precisions) for library, precisions in PEERS.items()),
        _joined([_ratio(figures.speedup(case, precision)) for precision in own]),
        _joined([_limit(case, precision) for precision in own]),
    ]


def _own_precisions(case: Case) -> tuple[str, ...]:
    return tuple(precision for precision in PRECISIONS if figures.find(case, OURS, precision))


def _has_kernel(case: Case) -> bool:
    return any(figures.find(case, KERNEL, precision) for precision in PRECISIONS)


def _cells(document: dict[str, Any]) -> dict[str, list[Case]]:
    cells: dict[str, list[Case]] = {}
    for case in document["cases"]:
        cells.setdefault(case["cell"], []).append(case)
    return cells


def limit_rows(document: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Bandwidth by the size of the buffer, and where each size comes from."""
    rates: dict[int, list[float]] = {}
    sources: dict[int, list[str]] = {}
    for case in document["cases"]:
        for precision in PRECISIONS:
            rate = figures.bandwidth(case, precision)
            if rate is None:
                continue
            size = case["weights"] * BYTES[precision]
            rates.setdefault(size, []).append(rate)
            source = f"{TITLES[case['cell']]}-{case['hidden']} {precision}"
            if source not in sources.setdefault(size, []):
                sources[size].append(source)
    rows = [
        [f"{size / 1024:,.0f}", f"{median(rates[size]):.0f}", ", ".join(sources[size])]
        for size in sorted(rates)
    ]
    return ["KiB", "GB/s", "weights of"], rows


def token_rows(document: dict[str, Any]) -> tuple[Row, list[Row]]:
    """Steps a second of the token case."""
    case = document["tokens"]
    rows = []
    for entry in case["entries"]:
        where = "from Python, tokens fed back" if entry["library"] == OURS else "kernel alone"
        rate = case["sessions"] / entry["median_us"] * 1e6
        rows.append([entry["precision"], where, number(entry["median_us"]), f"{rate:,.0f}"])
    return ["precision", "measured", "us a batch", "session-steps a second"], rows


def rich_tables(document: dict[str, Any]) -> list[Table]:
    """Everything for the terminal."""
    tables = [
        _rich(f"{TITLES[cell]}: median us of one step, one thread", header(cases[0]), [row(c) for c in cases])
        for cell, cases in _cells(document).items()
    ]
    tables.append(_rich("Reading a buffer, one thread", *limit_rows(document)))
    if "tokens" in document:
        tables.append(_rich(document["tokens"]["description"], *token_rows(document)))
    return tables


def _rich(title: str, titles: Row, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in titles:
        table.add_column(name, justify="right")
    for index, cells in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1][0] != cells[0]
        table.add_row(*cells, end_section=last and len(titles) > 4)
    return table


def _markdown(titles: Row, rows: list[Row]) -> list[str]:
    return [
        f"| {' | '.join(titles)} |",
        f"|{'|'.join(['--:'] * len(titles))}|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
    ]


def in_markdown(document: dict[str, Any]) -> str:
    """The generated part of docs/performance.md."""
    lines = [in_words(document["machine"]), ""]
    for cell, cases in _cells(document).items():
        lines += [f"### {TITLES[cell]}", "", *_markdown(header(cases[0]), [row(case) for case in cases])]
    for library, reason in document["left_out"].items():
        lines += [f"Not measured: {library}, because {reason}.", ""]
    lines += ["### Limits", "", *peak_lines(document), "", *_markdown(*limit_rows(document))]
    if "tokens" in document:
        title = document["tokens"]["description"]
        lines += ["### Writing tokens", "", f"{title}.", "", *_markdown(*token_rows(document))]
    return "\n".join(lines).rstrip() + "\n"


def peak_lines(document: dict[str, Any]) -> list[str]:
    """One line for each instruction."""
    return [
        f"- {precision}: {rate:,.0f} GOP/s ({instruction})"
        for precision, (instruction, rate) in figures.peaks(document).items()
    ]
