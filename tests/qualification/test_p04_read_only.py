"""P4: an output that cannot be written is told before any work; the input is never touched."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from calib_gpu.errors import Exit, OutputError
from calib_gpu.scan_run import ScanRunner
from calib_gpu.testing.faulty_disk import FaultyDisk, fail
from invariant import Figure, Night, count, fault, tree
from mounts import remount, tmpfs


@pytest.mark.parametrize("begun", [False, True], ids=["a new store", "a store of an earlier run"])
def test_a_read_only_file_system(
    night: Night, fast: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    loaded: list[object] = []
    with tmpfs(fast / "small", "32m") as disk:
        if begun:
            night.run(disk / "l1.zarr")
            shutil.rmtree(disk / "l1.zarr" / "scan_025650")
        monkeypatch.setattr(ScanRunner, "load", lambda *given: loaded.append(given))
        remount(disk, "ro")
        before, begin = tree(disk), time.perf_counter()
        with pytest.raises(OutputError, match="Read-only file system") as caught:
            night.run(disk / "l1.zarr")
        seconds = time.perf_counter() - begin
        figure("P4", "seconds until a read-only output is told", round(seconds, 3), 2.0)
        assert seconds <= 2.0
        assert loaded == [], "a scan was loaded before"
        assert caught.value.exit_code == Exit.CANNOT_WRITE
        assert tree(disk) == before


def test_it_becomes_read_only_at_every_operation(night: Night, fast: Path, figure: Figure) -> None:
    """As a file system does that met an error."""
    out = fast / "out"
    with FaultyDisk(out) as disk:
        night.run(out / "l1.zarr")
    shutil.rmtree(out)
    points, wrong = range(0, len(disk.names), count(3, 1)), list[str]()
    for k in points:
        with FaultyDisk(out, fail(errno.EROFS), at=k, lasting=True):
            try:
                report = night.run(out / "l1.zarr")
                assert all(f.error in ("OutputError", "NoReference") for f in report.failures), report.failures
            except OutputError as error:
                assert "Read-only file system" in str(error)  # noqa: PT017
        found = fault(night.visible, out / "l1.zarr")
        night.run(out / "l1.zarr")
        found += fault(night.check_whole, out / "l1.zarr")
        wrong += [f"operation {k}: {text}" for text in found[:1]]
        shutil.rmtree(out)
    right = len(points) - len(wrong)
    figure(
        "P4", f"operations, of {len(points)}, from which on the disk is read-only; a rerun is right", right, len(points)
    )
    assert wrong == []


def test_l0_is_never_touched(night: Night, fast: Path, figure: Figure) -> None:
    """No call below L0 changes anything: in a run, a rerun, one that replaces all, and one that fails."""
    before, times = tree(night.l0), {p: p.stat().st_mtime_ns for p in night.l0.rglob("*")}
    trespasses: list[str] = []
    for settings, failure in (
        ({}, None),
        ({}, None),
        ({"overwrite": True}, None),
        ({"overwrite": True}, fail(errno.EIO)),
    ):
        with FaultyDisk(fast, failure, at=60, keep_out=night.l0) as disk:
            night.run(fast / "l1.zarr", **settings)
        trespasses += disk.trespasses
    figure("P4", "calls that would have changed L0", len(trespasses), 0)
    assert trespasses == []
    assert tree(night.l0) == before
    assert {p: p.stat().st_mtime_ns for p in night.l0.rglob("*")} == times


def test_l0_on_a_read_only_file_system(night: Night, fast: Path) -> None:
    with tmpfs(fast / "small", "32m") as disk:
        shutil.copytree(night.l0, disk / "l0.zarr")
        remount(disk, "ro")
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir(disk / "probe")
        Night(disk / "l0.zarr", night.reference, night.failing).run(fast / "l1.zarr")
    night.check_whole(fast / "l1.zarr")


def test_keeping_out_works(night: Night, fast: Path) -> None:
    """Guard: a call that changes what must not be changed is noted and refused."""
    from calib_gpu.store import disk as engine

    with FaultyDisk(fast, keep_out=fast / "l0") as disk, pytest.raises(OutputError):
        engine.write_file(fast / "l0", b"")
    assert disk.trespasses == [f"create {fast / 'l0'}"]
