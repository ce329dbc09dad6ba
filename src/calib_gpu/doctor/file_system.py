"""What the file system of a path can do: locks, renames, and how long it takes until data are safe."""

from __future__ import annotations

import fcntl
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from calib_gpu.doctor import Finding

SIZE: Final = 16 * 1024 * 1024
SLOW_SYNC_S: Final = 0.1
SLOW_WRITE: Final = 30e6
"""Bytes a second below which the disk, not the codec, sets the pace of a run."""


def file_system(path: Path) -> list[Finding]:
    """Type, free space, locks, renames, and the speed of durable writes, in a temporary folder that is removed."""
    where = next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(where).free
    found = [
        Finding("file system", "path", str(where)),
        Finding("file system", "type", file_system_type(where)),
        Finding("file system", "free space", f"{free / 1e9:.1f} GB"),
    ]
    try:
        folder = Path(tempfile.mkdtemp(prefix=".calib-gpu-doctor-", dir=where))
    except OSError as error:
        told = f"cannot be written: {error.strerror}"
        return [*found, Finding("file system", "writing", told, "broken", "no L1 can be written here")]
    try:
        return [*found, _locks(folder), _rename(folder), _sync(folder), _write(folder)]
    except OSError as error:
        cost = "a run would fail here: choose another place for L1"
        return [*found, Finding("file system", "writing", f"fails: {error.strerror}", "broken", cost)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_system_type(path: Path) -> str:
    """Type and mount point, as the kernel tells them: the mount whose path is the longest above ``path``."""
    best = ("unknown", Path("/"))
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return best[0]
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))
        if path.resolve().is_relative_to(point) and len(point.parts) >= len(best[1].parts):
            best = (right.split()[0], point)
    return f"{best[0]} (mounted at {best[1]})"


def _locks(folder: Path) -> Finding:
    """A second lock of the same folder must be refused."""
    first, second = (os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    cost = "left-overs of broken runs stay in <L1>.run/staging; results are safe, for scans are published by a rename"
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding("file system", "flock", f"none: {error.strerror}", "missing", cost)
    else:
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return Finding("file system", "flock", "works")
        return Finding("file system", "flock", "accepts a second lock", "missing", cost)
    finally:
        os.close(first)
        os.close(second)


def _rename(folder: Path) -> Finding:
    """A folder must not be moved onto one that holds something: so the first of two runs wins."""
    for name in ("staged", "published"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    try:
        os.rename(folder / "staged", folder / "published")
    except OSError:
        os.rename(folder / "staged", folder / "new")
        return Finding("file system", "rename", "works")
    cost = "two runs on one store may replace each other's scans: run one at a time"
    return Finding("file system", "rename", "replaces folders that hold files", "broken", cost)


def _sync(folder: Path) -> Finding:
    seconds = []
    for k in range(5):
        begin = time.perf_counter()
        _write_file(folder / f"small{k}", b"\0" * 4096)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    slow = median > SLOW_SYNC_S
    cost = "each scan waits some times as long until it is published" if slow else ""
    return Finding("file system", "fsync", f"{1e3 * median:.1f} ms", "slow" if slow else "ok", cost)


def _write(folder: Path) -> Finding:
    begin = time.perf_counter()
    _write_file(folder / "large", os.urandom(SIZE))
    speed = SIZE / (time.perf_counter() - begin)
    slow = speed < SLOW_WRITE
    cost = "the disk sets the pace: L1 of a scan is about twice as large as its L0" if slow else ""
    return Finding("file system", "writing", f"{speed / 1e6:.0f} MB/s until durable", "slow" if slow else "ok", cost)


def _write_file(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
