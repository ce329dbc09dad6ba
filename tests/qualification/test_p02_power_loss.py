"""P2: a power loss leaves each scan whole or absent, and what a run called done is there."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from calib_gpu.pipeline import Progress, calibrate
from calib_gpu.settings import Settings
from calib_gpu.store import system
from calib_gpu.store.l1_store import check_store
from calib_gpu.testing.faulty_disk import CHANGES, Call, FaultyDisk
from calib_gpu.testing.power_loss import RECORD, PowerLoss, write_image
from invariant import Figure, Night, count, fault
from small_scan import two_bands

WAYS = ("syncfs", "fsync")
"""How scans are brought to the disk: all at once, or, where the system does not report errors then, file by file."""


class Done(Progress):
    """Notes after how many calls each scan was done."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.disk, self.at, self.ends = disk, dict[str, int](), list[int]()

    def end(self, report: Any) -> None:
        if report.status == "ok":
            self.at[report.scan] = len(self.disk.names)


def unknown(handle: int) -> None:
    raise OSError(errno.ENOSYS, "not implemented")


def recorded(l0: Path, out: Path, way: str, *, overwrite: bool = False) -> tuple[PowerLoss, Done]:
    """The calls of a run, or of two of which the second replaces all, on an empty folder."""
    out.mkdir()
    before = {"syncfs": unknown} if way == "fsync" else {}
    with system.replaced(**before), FaultyDisk(out, calls=RECORD) as disk:
        done = Done(disk)
        for again in (False, True)[: 1 + overwrite]:
            other: dict[str, Any] = {"overwrite": True, "pwv_clip": True} if again else {}
            settings = Settings(workers=1, **other)
            calibrate(l0, out / "l1.zarr", settings, progress=done)
            done.ends.append(len(disk.names))
    loss = PowerLoss(out, disk.log)
    shutil.rmtree(out)
    return loss, done


def restored(loss: PowerLoss, call: int, rng: random.Random, folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    return write_image(loss.image(call, rng), folder) / "l1.zarr"


@pytest.mark.parametrize("way", WAYS)
def test_a_power_loss_at_any_moment(night: Night, fast: Path, figure: Figure, way: str) -> None:
    loss, done = recorded(night.l0, fast / "out", way)
    rng, whole, absent, lost, again, wrong = random.Random(2), 0, 0, 0, 0, list[str]()
    images = count(100, 1000)
    for _ in range(images):
        call = rng.randrange(loss.n_calls + 1)
        l1 = restored(loss, call, rng, fast / "out")
        wrong += fault(night.visible, l1)
        there = {path.name for path in l1.glob("scan_*")}
        whole, absent = whole + len(there), absent + len(night.good - there)
        lost += len({scan for scan, at in done.at.items() if at <= call} - there)
        if rng.random() < 0.2:
            night.run(l1)
            wrong += fault(night.check_whole, l1)
            again += 1
    figure("P2", f"images of {images} with a scan that differs, {way} ({whole} whole, {absent} absent)", len(wrong), 0)
    figure("P2", f"scans called done that are not there in {images} images, {way}", lost, 0)
    figure(
        "P2",
        f"images of these over which a rerun was made, its differences counted above, {way}",
        again,
        ">= 10",
    )
    assert wrong == []
    assert lost == 0
    assert min(whole, absent, again) > images // 10


def test_a_power_loss_while_scans_are_replaced(night: Night, fast: Path, figure: Figure) -> None:
    """With --overwrite the old scan or the new one is there, never none and never a part."""
    loss, done = recorded(night.l0, fast / "out", "syncfs", overwrite=True)
    rng, images, wrong = random.Random(3), count(60, 500), list[object]()
    for _ in range(images):
        l1 = restored(loss, rng.randrange(done.ends[0], done.ends[1] + 1), rng, fast / "out")
        found = check_store(l1)
        wrong += [found] if found != (len(night.good), []) else []
    figure("P2", f"images of {images} of a run with --overwrite in which a scan is missing or damaged", len(wrong), 0)
    assert wrong == []


def test_without_the_sync_scans_are_torn(night: Night, fast: Path) -> None:
    """Guard: the images are hard enough. If publishing did not bring the files to the disk, damage would be seen."""
    (fast / "out").mkdir()
    with FaultyDisk(fast / "out", calls=RECORD) as disk:
        night.run(fast / "out" / "l1.zarr")
    unsynced = [call for call in disk.log if call.name != "syncfs"]
    loss, rng, torn = PowerLoss(fast / "out", unsynced), random.Random(4), 0
    for k in range(30):
        l1 = write_image(loss.image(loss.n_calls, rng), fast / f"{k}") / "l1.zarr"
        try:
            night.visible(l1)
        except AssertionError:
            torn += 1
    assert torn >= 5


def test_all_calls_that_change_are_modelled(night: Night, fast: Path) -> None:
    """Guard: a run changes the disk by calls alone that the model of the power loss knows."""
    with FaultyDisk(fast, calls=CHANGES) as disk:
        night.run(fast / "l1.zarr")
    assert set(disk.names) <= set(RECORD)
    assert {"create", "write", "mkdir", "rename", "rmdir", "fsync", "syncfs"} <= set(disk.names)


def call_of(name: str, path: Path, **more: Any) -> Call:
    return Call(name, path, (), {}, lambda: None, done=True, **more)


def test_the_model_of_the_disk(tmp_path: Path) -> None:
    """Bytes are safe by fsync of their file, names by fsync of their folder; both by syncfs."""
    a, folder = tmp_path / "a", tmp_path / "f"
    log = [
        call_of("create", a, file=0), call_of("write", a, file=0, data=b"12345678"), call_of("fsync", a, file=0),
        call_of("mkdir", folder), call_of("open", tmp_path, file=1), call_of("fsync", tmp_path, file=1),
        call_of("rename", a, target=folder / "b"), call_of("syncfs", tmp_path),
    ]  # fmt: skip
    seen: dict[int, set[str]] = {}
    for call in (3, 6, 7, 8):
        loss = PowerLoss(tmp_path, log[:call])
        seen[call] = {
            str(sorted(loss.image(len(log), random.Random(s)).items(), key=lambda item: item[0])) for s in range(200)
        }
    assert seen[3] == {"[]", "[('a', b'12345678')]"}  # its bytes are safe, its name is not
    assert seen[6] == {"[('a', b'12345678'), ('f', None)]"}
    moved = "[('f', None), ('f/b', b'12345678')]"
    assert seen[7] == {"[('a', b'12345678'), ('f', None)]", moved}
    assert seen[8] == {moved}


@pytest.fixture(scope="module")
def bands(module_folder: Path) -> Path:
    """An L0 store of one scan with two bands."""
    return two_bands(module_folder / "bands.zarr")


def test_a_power_loss_with_bands(bands: Path, fast: Path, figure: Figure) -> None:
    """A scan with bands is never seen without one, or half."""
    loss, _ = recorded(bands, fast / "out", "syncfs")
    rng, images = random.Random(5), count(60, 500)
    bad: list[str] = []
    for _ in range(images):
        l1 = restored(loss, rng.randrange(loss.n_calls + 1), rng, fast / "out")
        if (l1 / "zarr.json").is_file():
            bad += check_store(l1)[1]
    figure("P2", f"bands that differ in {images} images", len(bad), 0)
    assert bad == []
