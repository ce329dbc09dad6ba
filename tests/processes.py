"""Runs in processes of their own, started in a hundredth of a second by a server that has the engine loaded."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from calib_gpu import Settings
from calib_gpu.pipeline import calibrate
from calib_gpu.store import system


def context() -> ForkServerContext:
    """Where such processes come from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["calib_gpu.pipeline", "calib_gpu.scan_run", "processes"])
    return found


def run_in_child(l0: Path, l1: Path, begun: Any, renames: Path | None = None, **settings: Any) -> None:
    """Calibrate; ``begun`` is set before, and a line with each path that was renamed into L1 is added to ``renames``."""
    begun.set()
    real = system.rename

    def noted(source: Path, target: Path) -> None:
        real(source, target)
        if renames is not None and Path(target).parent == l1:
            with renames.open("a") as file:
                file.write(f"{Path(target).name}\n")

    with system.replaced(rename=noted):
        report = calibrate(l0, l1, Settings(**settings))
    raise SystemExit(int(report.exit_code))
