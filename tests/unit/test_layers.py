"""Dependencies point one way, only the CUDA backend and its proof import GPU packages, files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import calib_gpu

ROOT = Path(calib_gpu.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py"))
# a layer may import from those to its left
LAYERS = ["errors", "_version", "stopping",
          "schema", "settings", "config_files", "physics", "records", "scan_report", "store", "pictures", "backend", "atm",
          "modes", "workers", "tile_plan", "fallbacks", "packed", "encoded", "slot", "stream", "stages", "qa", "load_index",
          "load_choice", "selection", "scan_run", "write_behind", "scan_loop", "pipeline", "arrivals", "watch", "task_split",
          "slurm", "observe", "simulate", "ingest", "view", "export", "inspection", "explain", "doctor",
          "testing", "selftest", "demo", "bench", "cli", "__main__"]  # fmt: skip
GPU_PACKAGES = {
    "cupy": {"cupy_.py", "cupy_source.py"}, "cupyx": {"cupy_.py"}, "kvikio": {"kvikio_.py"}, "nvidia": {"nvcomp_.py"},
}  # fmt: skip
"""Packages that need a GPU, or a part of CUDA, and the files that may import them."""
TOGETHER = {("backend", "records"), ("stages", "qa"), ("qa", "stages")}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules imported by a file, and whether at run time (not under TYPE_CHECKING)."""
    found = []
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for b in ast.walk(tree)
        if isinstance(b, ast.If) and "TYPE_CHECKING" in ast.dump(b.test)
        for n in ast.walk(b)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) not in typing_only))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_dependencies_point_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for module, at_run_time in imports(path):
        package = module.split(".")[0]
        assert path.name in GPU_PACKAGES.get(package, {path.name}), f"{path.name} imports {package}"
        parts = module.split(".")
        if parts[0] != "calib_gpu" or len(parts) < 2 or not at_run_time or own == "__init__":
            continue
        other = parts[1]
        assert other != "testing" or own in ("testing", "selftest"), "the engine imports nothing that is for tests"
        if other != own and (own, other) not in TOGETHER:
            assert LAYERS.index(other) < LAYERS.index(own), f"{own} imports {other}"


def test_l0_is_opened_with_the_limits_of_the_settings() -> None:
    """One door: ``open_l0``. A store that is opened past it takes what the settings refuse."""
    calls = [
        (path.relative_to(ROOT).as_posix(), node.lineno)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "L0Store"
    ]
    assert [name for name, _ in calls] == ["store/l0.py"], calls


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 360
