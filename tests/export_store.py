"""What the tests of the export share: an L1 store with padding, holes and offsets, and its SDFITS file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from calib_gpu import Settings, calibrate
from calib_gpu.export import SdfitsOptions, export_sdfits
from calib_gpu.store.l0_write import L0Writer
from small_scan import small_scan

REST = 492.160651e9
CENTRE = (83.81, -5.37)


def make(folder: Path, dtype: str = "float64", **settings: Any) -> Path:
    """Two scans of 64 channels and one of 32, with padding, a hole, a bad channel and offsets."""
    store = L0Writer(folder / "l0.zarr", {})
    rng = np.random.default_rng(4)
    for number, c in ((25650, 64), (25651, 32), (25652, 64)):
        scan = small_scan(number, shape=(c, 3, 2, 2), mjd=60000.0 + number / 100)
        scan.counts *= 1.0 + 0.01 * rng.standard_normal(scan.counts.shape)
        scan.counts[10, 1, 0, 1, 2] = np.nan
        assert scan.loads is not None
        scan.loads[20, :, :, :, 1] = 1e9
        scan.counts[:, 2, :, :, 1] = np.nan  # padding of the first ON
        scan.source["n_dump"] = np.array([3, 2, 3, 3, 3])
        scan.source["exptime"] = np.array([9.0, 6.0, 9.0, 9.0, 9.0])
        scan.source["otf_lon"] = 0.01 * np.arange(15.0).reshape(3, 5)
        scan.source["otf_lat"] = -0.02 * np.arange(15.0).reshape(3, 5)
        scan.source["pixel_offset_lon"] = np.array([[0.0, 0.05], [0.1, 0.15]])
        scan.source["pixel_offset_lat"] = np.array([[0.0, 0.025], [0.05, 0.075]])
        scan.write(store, "float64")
    calibrate(folder / "l0.zarr", folder / "l1.zarr", Settings(dtype=dtype, **settings))
    return folder / "l1.zarr"


def export(l1: Path) -> Path:
    """The SDFITS file of :func:`make`, all of whose options are given."""
    out = l1.with_name("night.fits")
    options = SdfitsOptions(rest_ghz=REST / 1e9, centre=CENTRE, frame="topocentric", site=(-67.7, -22.9, 5600.0))
    assert export_sdfits(l1, out, options) == ["96 spectra of 3 scan(s)"]  # 4 pixels x (2 + 3 + 3) dumps x 3 scans
    return out


def group(l1: Path, number: int) -> Any:
    """A scan of L1, by zarr."""
    return zarr.open_group(str(l1), mode="r")[f"scan_{number:06d}"]


def place(row: Any) -> tuple[int, int, int, int]:
    """Dump, receiver, pixel and ON subscan of a row."""
    return int(row["INTNUM"]), int(row["PLNUM"]), int(row["FDNUM"]), int(row["PROCSEQN"]) - 1
