"""P14: a slow or stuck disk takes no more memory, is named every 10 s, and an error of it fails one scan only."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import tree

from calib_gpu import Settings
from calib_gpu.pipeline import calibrate
from calib_gpu.store.l0_write import L0Writer
from engine_process import finish, peak, start
from small_scan import small_scan

Figure = Callable[[str, str, Any, Any], None]

FULL = os.environ.get("CALIB_GPU_QUALIFY") == "full"
SLOW_S, STUCK_S = (0.5, 60.0) if FULL else (0.05, 22.0)
MEMORY_SHARE = 0.05
INTERVAL_S = 10.0
NUMBERS = (25650, 25651, 25652)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Scans of 5 MB of counts, so that tiles, workers and the prefetch have their part in the memory."""
    folder = tmp_path_factory.mktemp("slow")
    store = L0Writer(folder / "l0.zarr", {})
    for k, number in enumerate(NUMBERS):
        small_scan(number, shape=(8192, 4, 2, 4), mjd=60000.0 + k / 144.0, seed=k).write(store, "int32")
    calibrate(folder / "l0.zarr", folder / "whole.zarr", Settings(workers=1))
    return folder / "l0.zarr", tree(folder / "whole.zarr")


def test_a_slow_disk_takes_no_more_memory(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure
) -> None:
    l0, whole = reference
    peaks, took = {}, {}
    for name, slow in (("fast", 0.0), ("slow", SLOW_S)):
        begin = time.monotonic()
        code, out, err = finish(start(tmp_path, "run", str(l0), f"{name}.zarr", "--workers", "2", slow=slow), 600.0)
        took[name] = time.monotonic() - begin
        assert code == 0, err
        assert tree(tmp_path / f"{name}.zarr") == whole
        peaks[name] = peak(out)
    share = peaks["slow"] / peaks["fast"] - 1.0
    text = f"peak memory with {SLOW_S:g} s a read ({took['slow']:.0f} s in all), against a fast disk ({took['fast']:.0f} s), %"
    figure("P14", text, round(100.0 * share, 1), f"<= {100 * MEMORY_SHARE:g}")
    assert took["slow"] > took["fast"] + 10 * SLOW_S
    assert share <= MEMORY_SHARE


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_read_that_is_stuck_is_named(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure, log_format: str
) -> None:
    """Every 10 s, with its path and for how long, also where the log is quiet; the run goes on when the disk comes back."""
    l0, whole = reference
    stuck = "scan_025651/source/data_5d/c"
    arguments = ("run", str(l0), "l1.zarr", "--quiet", "--log-format", log_format)
    code, out, err = finish(start(tmp_path, *arguments, stuck=stuck, seconds=STUCK_S), 600.0)
    assert code == 0, err
    assert "FAULT stuck" in out
    assert tree(tmp_path / "l1.zarr") == whole
    if log_format == "json":
        lines = [json.loads(line) for line in err.splitlines()]
        named = [line["stuck_seconds"] for line in lines if stuck in line.get("stuck_path", "")]
        assert {line["level"] for line in lines} == {"warning"}
    else:
        named = [float(s) for s in re.findall(rf"reading for (\d+) s: \S*{stuck}", err)]
    expected = int((STUCK_S - 1.0) // INTERVAL_S)
    figure("P14", f"lines that name a read stuck for {STUCK_S:g} s ({log_format})", len(named), f">= {expected}")
    assert len(named) >= expected
    assert named == sorted(named)
    assert all(abs(b - a - INTERVAL_S) < 2.0 for a, b in itertools.pairwise(named))


def test_an_error_of_the_disk_fails_one_scan(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], figure: Figure
) -> None:
    """In the counts, in loads that another scan uses as well, in small arrays, and while the loads are indexed (read twice).

    What is published beside is what it would be without the error.
    """
    l0, whole = reference
    worst = 0
    for k, place in enumerate(("source/data_5d/c", "calibration/data_5d/c", "source/mjd", "calibration/mjd")):
        l1 = tmp_path / f"{k}.zarr"
        code, out, err = finish(start(tmp_path, "run", str(l0), l1.name, eio=f"scan_025651/{place}"))
        assert "FAULT eio" in out, place
        path = l1 / "failures.json"
        names = [entry["scan"] for entry in json.loads(path.read_bytes())] if path.exists() else []
        worst = max(worst, len(names))
        assert (code, names) in ((2, ["scan_025651"]), (0, [])), err
        assert names == [] or "Input/output error" in err
        published = {name: digest for name, digest in tree(l1).items() if name != "failures.json"}
        assert published.items() <= whole.items(), place
        calibrate(l0, l1)
        assert tree(l1) == whole
    figure("P14", "most scans that fail for a read that fails", worst, "<= 1")
