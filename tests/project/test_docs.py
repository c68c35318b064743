"""The documents against the code they describe."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from keepgate.config import Settings
from keepgate.errors import RequestError
from keepgate.rpc.status import CODES, INTERNAL_REASON
from keepgate_client._reasons import REASONS
from keepgate_kernels.cpu.rungs import RUNGS

ROOT = Path(__file__).parents[2]


def documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split()]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_and_its_default(name: str) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    field = Settings.model_fields[name]
    defaults = {"models": "the bundled models"}
    expected = defaults.get(name, "none" if field.default is None else f"`{field.default}`")
    assert row == (expected, field.description)


def test_every_reason_and_its_status() -> None:
    rows = dict(
        re.findall(r"^\| ([A-Z_, ]+?) \| ([A-Z_]+) \|", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)
    )
    documented = {reason: status for reasons, status in rows.items() for reason in reasons.split(", ")}
    expected = {error.reason: code.name for error, code in CODES.items()}
    assert documented == expected | {INTERNAL_REASON: "INTERNAL"}


def test_every_request_error_has_a_status() -> None:
    def leaves(kind: type[RequestError]) -> set[type[RequestError]]:
        below = kind.__subclasses__()
        return {kind} if not below else set().union(*map(leaves, below))

    assert leaves(RequestError) == set(CODES)


def test_the_client_knows_every_reason() -> None:
    assert set(REASONS) == {error.reason for error in CODES}


def test_every_rung_and_its_instructions() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| (\d+) \| (.+?) \| (.+?) \| (.+?) \|",
        (ROOT / "docs" / "numerics.md").read_text(),
        re.MULTILINE,
    )
    assert rows == [
        (rung.name, str(rung.lanes), rung.fp32.name, rung.bf16.name, rung.int8.name) for rung in RUNGS
    ]


def test_the_architecture_names_every_module_of_the_kernels() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for backend, part in zip(("cpu", "cuda"), text.split("## The CUDA backend"), strict=True):
        rows = re.findall(r"^\| ((?:`[a-z0-9_]+`(?:, )?)+) \|", part, re.MULTILINE)
        named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        folder = ROOT / "kernels" / "keepgate_kernels" / backend
        assert sorted(named) == sorted(path.stem for path in folder.glob("[a-z]*.py"))


def test_links_lead_somewhere() -> None:
    for document in documents():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.relative_to(ROOT)}: {target}"
