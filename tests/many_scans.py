"""One run over many scans, each damaged in its own way, beside a sound one: faster than a run for each damage."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import calib_gpu
from calib_gpu import Settings
from calib_gpu.scan_report import ScanReport
from calib_gpu.testing.tamper import BAD, GOOD, copies, sound_store

QUICK = "/dev/shm"
"""A file system in memory, where making a scan durable costs nothing."""
Damage = Callable[[Path], Any]
"""Damages the scan in a folder."""


def run_damaged(damages: Mapping[str, Damage], **settings: Any) -> dict[str, ScanReport]:
    """What became of a scan with each of the damages; the sound scan must be as good as alone."""
    with tempfile.TemporaryDirectory(dir=QUICK if os.access(QUICK, os.W_OK) else None) as folder:
        return _run(Path(folder), damages, **settings)


def _run(folder: Path, damages: Mapping[str, Damage], **settings: Any) -> dict[str, ScanReport]:
    store, l1 = folder / "l0.zarr", folder / "l1.zarr"
    sound_store(store)
    scans = dict(zip(damages, copies(store, len(damages)), strict=True))
    shutil.rmtree(store / f"scan_{BAD:06d}")
    alone = folder / "alone.zarr"
    calib_gpu.calibrate(store, alone, Settings(workers=1, **settings), scans=[GOOD])
    for name, scan in scans.items():
        damages[name](scan)
    heard = _Tracebacks()
    logging.getLogger("calib_gpu").addHandler(heard)
    try:
        report = calib_gpu.calibrate(store, l1, Settings(workers=1, **settings))
    finally:
        logging.getLogger("calib_gpu").removeHandler(heard)
    assert heard.records == []
    assert _digest(l1) == _digest(alone), "the sound scan suffered"
    found = {line.scan: line for line in report.scans}
    named = {f["scan"] for f in json.loads((l1 / "failures.json").read_bytes())} if report.failures else set()
    assert named == {line.scan for line in report.failures}
    return {name: found[scan.name] for name, scan in scans.items()}


def _digest(l1: Path) -> str:
    return str(json.loads((l1 / f"scan_{GOOD:06d}" / "zarr.json").read_bytes())["attributes"]["digest"])


class _Tracebacks(logging.Handler):
    """Keeps the records that carry a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.records.append(record.getMessage())
