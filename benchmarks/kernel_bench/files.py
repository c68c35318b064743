"""Where the figures go, and how they get into docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernel_bench.tables import in_markdown

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "kernels.json"
PART = ROOT / "build" / "kernels.json"
"""For a run over a part of the grid."""
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance-roofline.png"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def with_figures(text: str, document: dict[str, Any]) -> str:
    """The text of docs/performance.md with these figures between its marks. ValueError without them."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"expected the marks {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + "\n" + in_markdown(document) + "\n" + END + after
