"""The engine, but every scan lasts a little longer, and while a file ``hold`` lies in the working folder; same bytes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from calib_gpu.cli import main
from calib_gpu.scan_run import CalibratedScan, ScanRunner

SECONDS, LONGEST = 0.5, 180.0
calibrate = ScanRunner.calibrate


def slow(self: ScanRunner, *arguments: Any, **named: Any) -> CalibratedScan:
    """Stage calibrate, and a pause that a stop ends."""
    calibrated = calibrate(self, *arguments, **named)
    begin, hold = time.monotonic(), Path("hold")
    while (spent := time.monotonic() - begin) < SECONDS or (hold.exists() and spent < LONGEST):
        self.workers.check()
        time.sleep(0.05)
    return calibrated


ScanRunner.calibrate = slow  # type: ignore[method-assign]
main()
