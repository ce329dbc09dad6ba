"""The engine, but every scan takes some seconds more, so that something can happen to it meanwhile; same bytes."""

from __future__ import annotations

import time
from typing import Any

from calib_gpu.cli import main
from calib_gpu.scan_run import CalibratedScan, ScanRunner

SECONDS = 2.0
calibrate = ScanRunner.calibrate


def slow(self: ScanRunner, *arguments: Any, **named: Any) -> CalibratedScan:
    """Stage calibrate, and a pause that a stop ends."""
    calibrated = calibrate(self, *arguments, **named)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        self.workers.check()
        time.sleep(0.05)
    return calibrated


ScanRunner.calibrate = slow  # type: ignore[method-assign]
main()
