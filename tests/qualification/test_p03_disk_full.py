"""P3: a full disk fails the scan by name, leaves no half of it, and a rerun after freeing space gives the same bytes."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest

from calib_gpu.errors import Exit, OutputError
from calib_gpu.pipeline import RunReport
from calib_gpu.testing.faulty_disk import FaultyDisk, fail
from invariant import Figure, Night, count, fault, make_night
from mounts import remount, tmpfs

NEEDS_SPACE = ("create", "write", "mkdir", "rename", "fsync", "syncfs", "scratch", "allocate")
PARTS = 4


def operations(night: Night, out: Path) -> list[str]:
    with FaultyDisk(out, calls=NEEDS_SPACE) as disk:
        night.run(out / "l1.zarr")
    shutil.rmtree(out)
    return disk.names


def run_on_a_full_disk(night: Night, l1: Path, disk: FaultyDisk) -> RunReport | None:
    """The report, or None if nothing could be begun."""
    with disk:
        try:
            return night.run(l1)
        except OutputError as error:
            refused = error
    assert refused.exit_code == Exit.CANNOT_WRITE
    assert str(l1.parent) in str(refused)
    assert "No space left on device" in str(refused)
    return None


def check_failures(report: RunReport, l1: Path, *, written: bool) -> None:
    """Every scan that the disk failed says so, with the path; that whose write it met, the bytes that were to be written."""
    for k, failed in enumerate(f for f in report.failures if f.error != "NoReference"):
        assert failed.error == "OutputError", failed
        assert str(l1) in failed.message
        assert "No space left on device" in failed.message
        if written and k == 0:
            assert re.search(r"\(\d+ more bytes are needed here\)", failed.message), failed.message


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("lasting", [True, False], ids=["full until freed", "full once"])
def test_every_operation_meets_a_full_disk(night: Night, fast: Path, figure: Figure, part: int, lasting: bool) -> None:
    out = fast / "out"
    names = operations(night, out)
    points = range(len(names))[part :: count(PARTS if lasting else 4 * PARTS, PARTS)]
    wrong, hit = list[str](), 0
    for k in points:
        disk = FaultyDisk(out, fail(errno.ENOSPC), at=k, lasting=lasting, calls=NEEDS_SPACE)
        report = run_on_a_full_disk(night, out / "l1.zarr", disk)
        if report is not None:
            met = disk.log[k]
            check_failures(report, out / "l1.zarr", written=met.name == "write" and "/scan_" in str(met.path))
            hit += any(f.error == "OutputError" for f in report.failures)
            assert not any((out / "l1.zarr.run/staging").iterdir())
        recorded = report is not None and not report.unrecorded
        found = fault(night.check_or_failed if recorded else night.visible, out / "l1.zarr")
        night.run(out / "l1.zarr")
        found += fault(night.check_whole, out / "l1.zarr")
        wrong += [f"operation {k}: {text}" for text in found[:1]]
        shutil.rmtree(out)
    same = len(points) - len(wrong)
    kind = "full until freed" if lasting else "full once"
    figure("P3", f"operations, of {len(points)}, {kind}, after which a rerun gave the same bytes", same, len(points))
    assert wrong == []
    assert hit > len(points) // 2


def test_a_real_file_system_of_2_mib(fast: Path, figure: Figure) -> None:
    night = make_night(fast / "night", 5, shape=(1024, 6, 2, 2))
    with tmpfs(fast / "small", "2m") as disk:
        l1 = disk / "l1.zarr"
        report = night.run(l1)
        full = [f for f in report.failures if f.error == "OutputError"]
        check_failures(report, l1, written=True)
        assert full, "it has room for all: the test tests nothing"
        assert all(re.search(r"\d+ more bytes are needed", f.message) for f in full), [f.message for f in full]
        assert not any((disk / "l1.zarr.run/staging").iterdir())
        there = night.visible(l1)
        text = f"scans of {len(night.good)} in a 2 MiB file system that are there and right; {len(full)} met its end"
        figure("P3", text, len(there), ">= 1")
        assert there
        assert len(there) + len(full) == len(night.good)
        assert report.exit_code in (Exit.SOME, Exit.CANNOT_WRITE)
        remount(disk, "size=64m")
        night.run(l1)
        night.check_whole(l1)
