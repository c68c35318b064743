"""Rules that hold for the tree as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {
    "keepgate_protos": ROOT / "protos",
    "keepgate_kernels": ROOT / "kernels",
    "keepgate_client": ROOT / "clients" / "python",
    "keepgate": ROOT / "service",
}
ALLOWED = {
    "keepgate_protos": set(),
    "keepgate_kernels": set(),
    "keepgate_client": {"keepgate_protos"},
    "keepgate": {"keepgate_kernels", "keepgate_protos", "keepgate_client"},
}
LONGEST_FILE = 330


def project(folder: Path) -> dict[str, object]:
    document = tomllib.loads((folder / "pyproject.toml").read_text())
    return dict(document["project"])


def sources(package: str) -> list[Path]:
    return [
        path
        for path in sorted((DISTRIBUTIONS[package] / package).rglob("*.py"))
        if not re.search(r"_pb2(_grpc)?\.py$", path.name)
    ]


def imported(path: Path) -> set[str]:
    """Top-level names of all absolute imports in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def test_one_version() -> None:
    versions = {project(folder)["version"] for folder in DISTRIBUTIONS.values()}
    assert len(versions) == 1
    (version,) = versions
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    for folder in DISTRIBUTIONS.values():
        for requirement in project(folder)["dependencies"]:  # type: ignore[attr-defined]
            if requirement.startswith("keepgate"):
                assert requirement.endswith(f"=={version}")


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_direction_of_imports(package: str) -> None:
    for path in sources(package):
        ours = {name.split(".")[0] for name in imported(path)} & DISTRIBUTIONS.keys()
        assert ours <= ALLOWED[package] | {package}, path


def test_only_the_command_line_uses_the_client() -> None:
    for path in sources("keepgate"):
        if any(name.split(".")[0] == "keepgate_client" for name in imported(path)):
            assert path.is_relative_to(DISTRIBUTIONS["keepgate"] / "keepgate" / "cli"), path


def test_the_backends_do_not_import_each_other() -> None:
    for path in sources("keepgate_kernels"):
        if path.parent.name == "cpu":
            assert not any(name.startswith("keepgate_kernels.cuda") for name in imported(path)), path
        if path.parent.name == "cuda":
            assert not any(name.startswith("keepgate_kernels.cpu") for name in imported(path)), path


def test_the_client_needs_no_numba() -> None:
    heavy = {"numba", "llvmlite", "keepgate"}
    code = f"import keepgate_client, sys; print(sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("package", DISTRIBUTIONS)
def test_files_are_one_room_each(package: str) -> None:
    for path in sources(package):
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST_FILE, f"{path}: {lines} lines"


def test_no_machine_and_no_registry_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    hosts = re.compile(r"pypi\.(org|python)|pythonhosted|registry\.npmjs|deb\.debian")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".npz", ".png", ".safetensors"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path != Path(__file__):
            assert not hosts.search(text), name
            assert not re.search(r"/(root|home/\w+)/", text), name
