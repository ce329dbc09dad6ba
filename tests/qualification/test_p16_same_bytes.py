"""P16: the bytes of L1 do not depend on how it ran: backend, tile size, memory, workers, order of scans, what ran before."""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from backends import make_backend
from calib_gpu import Settings
from calib_gpu.pipeline import Progress, calibrate
from calib_gpu.store.l0_write import L0Writer
from invariant import FULL, Figure, scan_of, tree
from small_scan import small_scan

BACKENDS = ("numpy", "sim", pytest.param("cupy", marks=pytest.mark.gpu))
"""Names of :mod:`backends`; each must give the bytes of NumPy; a GPU is taken where there is one."""

TILES = (1, 100_000, 170_000, 12 << 20)
MEMORIES = (16 << 20, 144 << 20)
WORKERS = (1, 2, 4)
C, D, R, A = SHAPE = (256, 8, 2, 3)


class CountTiles(Progress):
    """Counts the tiles of a run."""

    def __init__(self) -> None:
        self.n, self._lock = 0, threading.Lock()

    def advance(self, samples: int) -> None:
        with self._lock:
            self.n += 1


@pytest.fixture(scope="module")
def l0(module_folder: Path) -> Path:
    """Two noisy scans of six pixels with missing counts, so that flags and sums have something to do."""
    store, rng = L0Writer(module_folder / "many-ways.zarr", {}), np.random.default_rng(8)
    for k in range(2):
        scan = small_scan(25650 + k, shape=SHAPE, mjd=60000.0 + k / 100.0, seed=k)
        scan.counts *= 1.0 + 1e-3 * rng.normal(size=scan.counts.shape)
        scan.counts[rng.random(scan.counts.shape) < 0.01] = np.iinfo(np.int32).min
        scan.write(store, "int32")
    return module_folder / "many-ways.zarr"


def digest(l1: Path) -> str:
    return hashlib.sha256(repr(sorted(tree(l1).items())).encode()).hexdigest()


@pytest.fixture(scope="module")
def reference(l0: Path, module_folder: Path) -> str:
    """Digest of what NumPy and one worker give."""
    calibrate(l0, module_folder / "reference-l1.zarr", Settings(workers=1), backend=make_backend("numpy"))
    return digest(module_folder / "reference-l1.zarr")


@pytest.mark.parametrize("name", BACKENDS)
def test_every_way_gives_the_same_bytes(
    l0: Path, reference: str, fast: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backend = make_backend(name)
    monkeypatch.setattr("calib_gpu.workers.WORTH_SHARING", 0)  # small scans, too, are shared between threads
    monkeypatch.setattr("calib_gpu.scan_loop.WORTH_SHARING", 0)
    digests, tiles, n = {reference}, set[int](), 0
    for tile in TILES:
        monkeypatch.setattr("calib_gpu.tile_plan.TILE_BYTES", tile)
        monkeypatch.setattr("calib_gpu.scan_run.LOAD_TILE_BYTES", tile)
        for memory in MEMORIES:
            for workers in WORKERS if FULL or memory == MEMORIES[0] else WORKERS[-1:]:
                counted, n = CountTiles(), n + 1
                settings = Settings(memory=memory, workers=workers)
                report = calibrate(l0, fast / "l1.zarr", settings, progress=counted, backend=backend)
                assert report.count("ok") == 2, report.failures
                digests.add(digest(fast / "l1.zarr"))
                tiles.add(counted.n)
                shutil.rmtree(fast / "l1.zarr")
    cuts = f"{len(tiles)} cuts into {min(tiles)} to {max(tiles)} tiles"
    figure("P16", f"different L1 of {n} ways to run on {name} and one worker on NumPy ({cuts})", len(digests), 1)
    assert len(tiles) >= 3
    assert len(digests) == 1


def test_the_order_of_scans_does_not_matter(l0: Path, fast: Path) -> None:
    calibrate(l0, fast / "whole.zarr", Settings(workers=1))
    for k, order in enumerate(([25650, 25651], [25651, 25650])):
        for number in order:
            calibrate(l0, fast / f"{k}.zarr", Settings(workers=2), scans=[number])
        assert tree(fast / f"{k}.zarr") == tree(fast / "whole.zarr")


def test_a_difference_would_be_seen(l0: Path, fast: Path) -> None:
    """Guard: another number in one setting gives another digest of every scan."""
    calibrate(l0, fast / "a.zarr", Settings(workers=1))
    calibrate(l0, fast / "b.zarr", Settings(workers=1, eta_f=0.9499999))
    a, b = tree(fast / "a.zarr"), tree(fast / "b.zarr")
    assert {scan_of(name) for name in a if a[name] != b[name]} >= {"scan_025650", "scan_025651"}
