"""P14: whichever read of L0 fails, once or from then on, what is published is what it would be without the error.

Scans 25650 and 25651 are loads alone, 25652 takes its loads from them, 25653 has its own and its gain drift from them.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calib_gpu import Settings
from calib_gpu.errors import CalibError
from calib_gpu.pipeline import calibrate
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.testing.faulty_disk import READS, FaultyDisk, fail
from invariant import FIRST, count, differing, tiny_scan, tree

Figure = Callable[[str, str, Any, Any], None]
LOADS = (FIRST, FIRST + 1)
SCIENCE = (FIRST + 2, FIRST + 3)


class ReadNight:
    """The night, its uninterrupted result, and what a run on a failing disk made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.l0, self.l1 = folder, folder / "l0.zarr", folder / "l1.zarr"
        writer = L0Writer(self.l0, {})
        for number in (*LOADS, *SCIENCE):
            scan = tiny_scan(number)
            if number == SCIENCE[0]:
                scan.loads = None
            scan.write(writer, "int32", with_source=number not in LOADS)
        calibrate(self.l0, folder / "whole.zarr", Settings(workers=1))
        self.whole = tree(folder / "whole.zarr")

    def n_reads(self, below: Path) -> int:
        """How many calls a run asks the disk with, below a folder."""
        with FaultyDisk(below, calls=READS) as disk:
            calibrate(self.l0, self.folder / "counted.zarr", Settings(workers=1, overwrite=True))
        return len(disk.names)

    def wrong(self, disk: FaultyDisk) -> list[str]:
        """What is wrong after a run in which reads failed, and after the run that follows on a sound disk."""
        for path in (self.l1, self.l1.with_name("l1.zarr.run")):
            shutil.rmtree(path, ignore_errors=True)
        found = []
        try:
            with disk:
                report = calibrate(self.l0, self.l1, Settings(workers=1))
        except CalibError:  # of the store as a whole, with an exit code of its own
            pass
        except Exception as error:
            found.append(f"traceback: {type(error).__name__}: {error}")
        else:
            found += [f"{line.error}: {line.message}" for line in report.failures if line.error == "InternalError"]
            if tree(self.l1) != self.whole and not report.failures:
                found.append("differs in silence")
        published = {name: data for name, data in tree(self.l1).items() if name != "failures.json"}
        if not published.items() <= self.whole.items():
            found.append(f"published otherwise: {differing(published, self.whole)}")
        calibrate(self.l0, self.l1, Settings(workers=1))
        if tree(self.l1) != self.whole:
            found.append(f"differs after a rerun: {differing(tree(self.l1), self.whole)}")
        at = disk.log[disk.at] if disk.at < len(disk.log) else None
        where = "" if at is None else f"{at.name} {at.path}"
        return [f"read {disk.at} ({where}): {text}" for text in found]


@pytest.fixture(scope="module")
def night(module_folder: Path) -> ReadNight:
    return ReadNight(module_folder / "reads")


def places(n: int, tries: int) -> range:
    """Places spread evenly over all reads; all of them where ``CALIB_GPU_QUALIFY=full``."""
    return range(0, n, count(max(1, n // tries), 1))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=["EIO", "ESTALE"])
def test_a_read_that_fails_once(night: ReadNight, figure: Figure, number: int) -> None:
    tried = places(night.n_reads(night.l0), 40)
    wrong = [text for k in tried for text in night.wrong(FaultyDisk(night.l0, fail(number), at=k, calls=READS))]
    text = f"runs of {len(tried)} in which one read failed ({errno.errorcode[number]}) with another result, or unnamed"
    figure("P14", text, len(wrong), 0)
    assert wrong == []


@pytest.mark.parametrize("scan", [*LOADS, *SCIENCE])
def test_a_scan_that_cannot_be_read_from_some_moment_on(night: ReadNight, figure: Figure, scan: int) -> None:
    folder = night.l0 / f"scan_{scan:06d}"
    tried = places(night.n_reads(folder), 12)
    wrong = [
        text
        for k in tried
        for text in night.wrong(FaultyDisk(folder, fail(errno.EIO), at=k, calls=READS, lasting=True))
    ]
    text = f"runs of {len(tried)} in which scan {scan} could not be read from some moment on, with another result, or unnamed"
    figure("P14", text, len(wrong), 0)
    assert wrong == []
