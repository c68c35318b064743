"""The figures as tables: on the terminal, and in docs/performance.md. Both have the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "service.json"
DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- service: begin -->\n", "<!-- service: end -->\n"
TITLES = ["sessions", "server", "call", "steps/s", "of fastest peer", "p50 us", "p99 us", "server us"]
WORDS = 3
"""Columns of words; the others are numbers."""


def rows(case: dict[str, Any]) -> list[list[str]]:
    """One model's rows, by sessions."""
    return [
        [
            str(row["sessions"]),
            row["server"],
            row["call"],
            f"{row['steps_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['p50_us']:,.0f}",
            f"{row['p99_us']:,.0f}",
            f"{row['server_us']:,.0f}",
        ]
        for row in case["medians"]
    ]


def rich_table(case: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table(title=f"{case['title']}, one step a message (medians)", title_justify="left")
    for index, name in enumerate(TITLES):
        table.add_column(name, justify="left" if 0 < index < WORDS else "right", no_wrap=True)
    cells = rows(case)
    for index, row in enumerate(cells):
        last = index + 1 == len(cells) or cells[index + 1][0] != row[0]
        table.add_row(*row, end_section=last)
    return table


def in_markdown(document: dict[str, Any]) -> str:
    """The generated part of docs/performance.md."""
    facts = document["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in document["packages"].items())
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, rung {facts['rung']}; "
        f"Python {facts['python']}, {packages}. {document['rounds']} rounds of {document['seconds']:g} s.",
        "",
    ]
    for case in document["cases"]:
        settings = "; ".join(f"{name}: {words}" for name, words in case["settings"].items())
        lines += [f"### {case['title']}", "", f"{settings}.", ""]
        lines.append(f"| {' | '.join(TITLES)} |")
        lines.append(f"|--:|---|---|{'--:|' * (len(TITLES) - WORDS)}")
        lines += [f"| {' | '.join(row)} |" for row in rows(case)]
        lines.append("")
    if document["left_out"]:
        lines += [f"Not measured: {', '.join(document['left_out'])}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def with_figures(text: str, document: dict[str, Any]) -> str:
    """The text of docs/performance.md with these figures between its marks. ValueError without them."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"expected the marks {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + "\n" + in_markdown(document) + "\n" + END + after
