"""Small nights calibrated on a simulated device, and what a failure may leave of them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from calib_gpu import Settings, stream
from calib_gpu.backend import on_device
from calib_gpu.backend.numpy_ import NumpyBackend
from calib_gpu.backend.on_device import DeviceBackend
from calib_gpu.errors import DeviceLost
from calib_gpu.pipeline import RunReport, calibrate
from calib_gpu.scan_run import ScanRunner
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.testing.host import SeenLock
from calib_gpu.testing.kernel_models import run_model
from calib_gpu.testing.order import Clock
from calib_gpu.testing.schedule import Schedule
from calib_gpu.testing.sim import EAGER, NO_FAULTS, Execute, Faults, SimDevice
from calib_gpu.workers import Workers
from small_scan import small_scan

MODES = ("OTF-OFF", "OTF-ON", "OTF-ON")


@dataclass
class DeviceNight:
    """An L0 store, the files of its L1 from NumPy, and the folder in which runs take place."""

    folder: Path
    l0: Path
    reference: dict[str, bytes]

    @property
    def scans(self) -> list[str]:
        """Names of the scans, in order."""
        return sorted({name.split("/")[0] for name in self.reference if name.startswith("scan_")})


@dataclass
class Run:
    """What a run did: its report, its device, the files of L1 as they are afterwards."""

    report: RunReport
    device: SimDevice
    files: dict[str, bytes]
    left_behind: list[str]

    @property
    def statuses(self) -> list[str]:
        """How each scan that was tried ended."""
        return [line.error or line.status for line in self.report.scans]

    @property
    def notes(self) -> list[str]:
        """What was noted of all scans."""
        return [note for line in self.report.scans for note in line.notes]


def tree(folder: Path) -> dict[str, bytes]:
    """Bytes of every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def share_all_work(patch: pytest.MonkeyPatch) -> None:
    """Threads share small scans, too, and the next one is loaded meanwhile."""
    for module in ("workers", "scan_loop"):
        patch.setattr(f"calib_gpu.{module}.WORTH_SHARING", 0)


@contextlib.contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs would wait for the disk, which is not what is tested."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="calib-device-", dir=shared if os.access(shared, os.W_OK) else None
    ) as folder:
        yield Path(folder)


@contextlib.contextmanager
def lone_night(shape: tuple[int, int, int, int], n_scan: int = 2, **settings: Any) -> Iterator[DeviceNight]:
    """A night whose small scans are done one after the other by the same threads: every run asks for the same memory."""
    with pytest.MonkeyPatch.context() as patch, fast_folder() as folder:
        patch.setattr(logging.getLogger("calib_gpu"), "disabled", True)
        yield make_night(folder, shape, n_scan, **settings)


@contextlib.contextmanager
def shared_night(shape: tuple[int, int, int, int], n_scan: int = 2, **settings: Any) -> Iterator[DeviceNight]:
    """A night whose small scans are shared between threads, too."""
    with lone_night(shape, n_scan, **settings) as night, pytest.MonkeyPatch.context() as patch:
        share_all_work(patch)
        yield night


def make_night(folder: Path, shape: tuple[int, int, int, int], n_scan: int = 2, **settings: Any) -> DeviceNight:
    """Noise-free scans, ten minutes apart, of integer counts."""
    store = L0Writer(folder / "l0.zarr", {})
    for k in range(n_scan):
        small_scan(25650 + k, MODES, shape=shape, mjd=60000.0 + k / 144.0, seed=k).write(store, "int32")
    report = calibrate(
        folder / "l0.zarr", folder / "reference.zarr", Settings(workers=1, **settings), backend=NumpyBackend()
    )
    assert report.count("ok") == n_scan
    return DeviceNight(folder, folder / "l0.zarr", tree(folder / "reference.zarr"))


@contextlib.contextmanager
def seen_threads(device: SimDevice) -> Iterator[None]:
    """The device sees what orders the engine's threads: the locks of the tile loop, tasks that begin and end, loading ahead."""
    ends: list[Clock] = []
    map_tasks, load = Workers.map, ScanRunner.load

    def seen(work: Callable[..., Any], begin: Clock) -> Callable[..., Any]:
        def run_it(*args: Any) -> Any:
            device.learns(begin)
            try:
                return work(*args)
            finally:
                ends.append(device.knows())

        return run_it

    def meet() -> None:
        for clock in ends:
            device.learns(clock)

    def map_seen(self: Workers, task: Any, items: Any, n_bytes: int | None = None) -> Any:
        try:
            return map_tasks(self, seen(task, device.knows()), items, n_bytes)
        finally:
            meet()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workers, "map", map_seen)
        patch.setattr(ScanRunner, "load", seen(load, device.knows()))
        patch.setattr(stream, "threading", SimpleNamespace(
            Lock=lambda: SeenLock(device), Condition=lambda: threading.Condition(SeenLock(device)),  # type: ignore[arg-type]
        ))  # fmt: skip
        patch.setattr(on_device, "threading", SimpleNamespace(Lock=lambda: SeenLock(device)))
        yield
        meet()


def run(
    night: DeviceNight,
    schedule: Schedule = EAGER,
    faults: Faults = NO_FAULTS,
    *,
    again: bool = False,
    threads: bool = False,
    execute: Execute = run_model,
    **settings: Any,
) -> Run:
    """Calibrate on a device; ``again`` goes on in the store of the last run, with ``threads`` each is seen by itself."""
    out = night.folder / "l1.zarr"
    if not again:
        for folder in (out, night.folder / "l1.zarr.run"):
            shutil.rmtree(folder, ignore_errors=True)
    device = SimDevice(schedule, faults, threads=threads, execute=execute)
    with seen_threads(device) if threads else contextlib.nullcontext():
        backend = DeviceBackend(device)
        report = calibrate(night.l0, out, Settings(**{"workers": 2, **settings}), backend=backend)
    backend.close()
    staging = night.folder / "l1.zarr.run" / "staging"
    left = [p.as_posix() for p in staging.rglob("*") if p.is_file() and p.name != "lock"] if staging.is_dir() else []
    return Run(report, device, tree(out) if out.is_dir() else {}, left)


def violations(night: DeviceNight, done: Run) -> list[str]:
    """Where a run broke the promise that a scan is published whole and right, or not at all."""
    found = [f"left behind: {name}" for name in done.left_behind] + done.device.order_faults
    ok = {line.scan for line in done.report.scans if line.status in ("ok", "skipped")}
    for scan in night.scans:
        expected = {name: data for name, data in night.reference.items() if name.startswith(f"{scan}/")}
        there = {name: data for name, data in done.files.items() if name.startswith(f"{scan}/")}
        if there != (expected if scan in ok else {}):
            found.append(f"{scan}, {'ok' if scan in ok else 'failed'}, has {len(there)} of {len(expected)} files")
    if DeviceLost.__name__ not in done.statuses and done.device.live_blocks:
        found.append(f"not given back: {done.device.live_blocks}")
    return found
