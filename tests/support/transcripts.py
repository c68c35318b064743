"""Transcripts: what happened to a state machine, and what it answered, as text that people read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"


def read_transcripts(name: str) -> dict[str, list[str]]:
    """The cases of a file: title to lines. Comments and empty lines are left out."""
    cases: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (TRANSCRIPTS / name).read_text().splitlines():
        if line.startswith("== "):
            title = line.removeprefix("== ")
            if title in cases:
                raise ValueError(f"{name}: two cases are called {title!r}")
            lines = cases[title] = []
        elif line and not line.startswith("#"):
            lines.append(line)
    return cases


def replay(lines: list[str], answer: Callable[[str], str]) -> list[str]:
    """The transcript as it comes out when its events, every other line, are answered anew."""
    replayed: list[str] = []
    for event in lines[::2]:
        replayed += [event, answer(event)]
    return replayed
