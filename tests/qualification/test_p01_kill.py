"""P1: kill -9 at any point, then the same command again: the same bytes as without."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from calib_gpu.store import system
from calib_gpu.testing.faulty_disk import FaultyDisk, crash
from invariant import FULL, Figure, Night, count, fault, make_night
from processes import context, run_in_child

PARTS = 4
"""The points are dealt out to so many tests, which may run side by side."""


def points(night: Night, out: Path) -> list[tuple[str, int]]:
    """Before the first, after each, and inside each write of the operations of a run; in the full run before each too."""
    with FaultyDisk(out) as disk:
        night.run(out / "l1.zarr")
    shutil.rmtree(out)
    found = [("before", k) for k in range(len(disk.names) if FULL else 1)]
    found += [("after", k) for k in range(len(disk.names))]
    return found + [("inside", k) for k, name in enumerate(disk.names) if name == "write"]


@pytest.mark.parametrize("part", range(PARTS))
def test_a_crash_at_every_operation(night: Night, fast: Path, figure: Figure, part: int) -> None:
    mine = points(night, fast / "out")[part::PARTS]
    wrong: list[str] = []
    for when, k in mine:
        out = fast / "out"
        with FaultyDisk(out, crash(when), at=k) as disk:
            night.run(out / "l1.zarr")
        assert disk.dead, f"{when} operation {k} of {len(disk.names)}"
        found = fault(night.visible, out / "l1.zarr")
        night.run(out / "l1.zarr")
        found += fault(night.check_whole, out / "l1.zarr")
        found += [f"left: {path}" for path in (out / "l1.zarr.run/staging").iterdir()]
        wrong += [f"{when} operation {k}: {text}" for text in found[:1]]
        shutil.rmtree(out)
    same = len(mine) - len(wrong)
    figure("P1", f"points of a crash, of {len(mine)}, after which a rerun gave the same bytes", same, len(mine))
    assert wrong == []
    assert len(mine) > 100


def test_the_crash_is_a_crash(night: Night, fast: Path) -> None:
    """Guard: half of the points leave something in staging, some leave one scan, and the lock is free afterwards."""
    n = len(points(night, fast / "probe"))
    left, visible = 0, set()
    for k in range(0, n // 2, 20):
        out = fast / f"{k}"
        with FaultyDisk(out, crash("after"), at=k):
            night.run(out / "l1.zarr")
        left += any((out / "l1.zarr.run").glob("staging/*/*"))
        visible.add(len(night.visible(out / "l1.zarr")))
    assert left > 5
    assert visible >= {0, 1}


@pytest.fixture(scope="module")
def longer(module_folder: Path) -> Night:
    """A night of six scans, one of which fails."""
    return make_night(module_folder / "longer", 5)


def test_real_kills(longer: Night, fast: Path, figure: Figure) -> None:
    """SIGKILL at random times, up to five in a row before a run may finish."""
    here = context()
    rng, killed, early, wanted, rounds, wrong = random.Random(1), 0, 0, count(40, 300), 0, list[str]()
    warm = fast / "warm.zarr"
    begin = time.perf_counter()
    longer.run(warm)
    duration = time.perf_counter() - begin
    while killed < wanted:
        l1 = fast / f"{rounds}.zarr"
        rounds += 1
        for _ in range(rng.randint(1, 5)):
            begun = here.Event()
            child = here.Process(target=run_in_child, args=(longer.l0, l1, begun), kwargs={"workers": 2})
            child.start()
            assert begun.wait(30)
            time.sleep(rng.uniform(0.0, 1.5 * duration))
            child.kill()
            child.join(30)
            killed += child.exitcode == -9
            wrong += fault(longer.visible, l1)
            early += child.exitcode == -9 and len(list(l1.glob("scan_*"))) < len(longer.good)
            child.close()
        longer.run(l1)
        wrong += fault(longer.check_whole, l1)
        shutil.rmtree(l1)
    kills = f"{killed} real kills, {early} of them before the last scan was there"
    figure("P1", f"stores that differ after {kills}", len(wrong), 0)
    assert wrong == []
    assert early > wanted // 3


def test_the_seam_is_whole_again_after_a_crash(night: Night, fast: Path) -> None:
    before = {name: getattr(system, name) for name in system.CALLS}
    with FaultyDisk(fast, crash("before"), at=3):
        night.run(fast / "l1.zarr")
    assert {name: getattr(system, name) for name in system.CALLS} == before
