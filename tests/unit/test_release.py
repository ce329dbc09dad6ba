"""What a release is made of says one and the same, and is complete."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import calib_gpu

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())


def test_the_citation_is_valid_and_of_this_version() -> None:
    cff = pytest.importorskip("cffconvert.citation", reason="cffconvert is not here: CITATION.cff was not checked")
    citation = cff.Citation((TOP / "CITATION.cff").read_text())
    citation.validate()
    told = citation.cffobj
    assert (told["version"], told["license"], told["type"]) == (calib_gpu.__version__, "BSD-3-Clause", "software")
    heading = f"## [{calib_gpu.__version__}] - {told['date-released']}"
    assert heading in (TOP / "CHANGELOG.md").read_text().splitlines()


def test_the_licence_is_told_alike() -> None:
    assert (TOP / "LICENSE").read_text().startswith("BSD 3-Clause License")
    assert PROJECT["project"]["license"] == "BSD-3-Clause"


def test_types_are_told_to_users() -> None:
    """PEP 561: the marker is in the package, and mypy is strict, so that every public name has a type."""
    assert resources.files("calib_gpu").joinpath("py.typed").is_file()
    assert PROJECT["tool"]["mypy"]["strict"] is True
    assert "Typing :: Typed" in PROJECT["project"]["classifiers"]


def test_the_kernels_are_in_the_wheel() -> None:
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["kernels"] == "calib_gpu/kernels"
    assert any((TOP / "kernels").iterdir())


def test_hooks_run_what_ci_runs() -> None:
    """Only the project's own tools, with the commands of .ci/run: no hook fetches anything."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not here: .pre-commit-config.yaml was not checked")
    (repo,) = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    entries = {hook["id"]: hook["entry"] for hook in repo["hooks"]}
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    if not (TOP / ".ci").is_dir():
        pytest.skip("no .ci here (an sdist has none): the hooks were not compared with it")
    ci = (TOP / ".ci" / "run").read_text() + (TOP / "scripts" / "docs").read_text()
    for tool in ("ruff check", "ruff format", "mypy", "scripts/make_docs --check"):
        assert any(tool in entry for entry in entries.values()), tool
        assert tool in ci, tool
    for entry in entries.values():
        assert re.match(r"\.venv/bin/(ruff|mypy|python) ?", entry), entry


def test_contributing_names_a_place_for_each_kind_of_change() -> None:
    """The places that CONTRIBUTING names are there."""
    text = (TOP / "CONTRIBUTING.md").read_text()
    for kind in ("observing mode", "product", "backend", "input format", "output format"):
        assert f"A new {kind}" in text or f"An {kind}" in text or f"A {kind}" in text, kind
    named = set(re.findall(r"`(src/[\w/.]+|tests/[\w/.]+|docs/[\w/.]+|scripts/\w+)`", text))
    assert len(named) >= 10
    assert [name for name in sorted(named) if not (TOP / name).exists()] == []
