"""P15: memory does not grow with the number of scans, and not beyond what the settings allow with their size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from calib_gpu.store.l0_write import L0Writer
from invariant import FIRST, SHAPE, Figure, count, tiny_scan
from small_scan import small_scan

RUN = """
import re, sys
from pathlib import Path
from calib_gpu import Settings, calibrate
report = calibrate(sys.argv[1], sys.argv[2], Settings(workers=2, memory=int(sys.argv[3])))
assert report.count("ok") == len(report.scans) > 0, report.failures
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""
"""Prints its peak; ``ru_maxrss`` would be at least that of the process which started it."""
MEMORY = 64 * 2**20


def peak_mib(l0: Path, l1: Path) -> float:
    """Largest resident memory of a process that calibrates a store, MiB."""
    call = [sys.executable, "-c", RUN, str(l0), str(l1), str(MEMORY)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_memory_does_not_grow_with_the_number_of_scans(fast: Path, figure: Figure) -> None:
    peaks = {}
    for n in (10, count(100, 1000)):
        store = L0Writer(fast / f"{n}.zarr", {})
        for k in range(n):
            scan = tiny_scan(FIRST + k % 10)  # made anew, for the numbers of ten scans are enough
            scan.number = FIRST + k
            scan.source["mjd"] = np.asarray(scan.source["mjd"]) + k / 1440.0
            scan.calibration["mjd"] = np.asarray(scan.calibration["mjd"]) + k / 1440.0
            scan.write(store, "int32")
        peaks[n] = peak_mib(fast / f"{n}.zarr", fast / f"{n}-l1.zarr")
    few, many = peaks
    figure("P15", f"MiB by which {many} scans of {SHAPE} take more than {few}", round(peaks[many] - peaks[few], 1), 5.0)
    assert peaks[many] - peaks[few] <= 5.0


def test_the_peak_is_that_of_the_settings(fast: Path, figure: Figure) -> None:
    shape = (8192, count(40, 250), 2, 2)
    l0 = small_scan(shape=shape).store(fast / "l0.zarr", "int32")
    peak = peak_mib(l0, fast / "l1.zarr")
    limit = MEMORY / 2**20 + 300.0
    figure("P15", f"MiB at most, one scan of {shape}, memory = {MEMORY // 2**20} MiB", round(peak, 1), limit)
    assert peak <= limit
