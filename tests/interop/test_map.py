"""The example that grids a map: a simulated point source is where it was put, on the sky and in velocity."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu
from calib_gpu.simulate import simulate
from point_source import BEAM, SOURCE, point_source

TOP = Path(__file__).parents[2]
REST = 492.160651e9


@pytest.mark.slow
@pytest.mark.parametrize("centre", [(83.81, -5.37), (0.001, 61.0)], ids=["Orion", "seam"])
def test_a_point_source_is_within_a_tenth_of_a_beam(
    tmp_path: Path, centre: tuple[float, float], program: Callable[[str], Any]
) -> None:
    for name in ("cygrid", "spectral_cube"):
        program(name)
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS

    simulate(tmp_path / "l0.zarr", point_source())
    calib_gpu.calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr")
    call = [
        sys.executable,
        str(TOP / "scripts" / "grid_map"),
        "l1.zarr",
        "cube.fits",
        f"--centre={centre[0]},{centre[1]}",
    ]
    source = str(Path(calib_gpu.__file__).parents[1])
    done = subprocess.run(
        [*call, f"--beam={BEAM}", "--rest-ghz=492.160651"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": source, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SpectralCube with shape=(32," in done.stdout
    with fits.open(tmp_path / "cube.fits") as hdus:
        cube, header = hdus[0].data, hdus[0].header
    line = np.nan_to_num(cube).sum(axis=0)
    y, x = np.nonzero(line > 0.3 * line.max())
    weight = line[y, x] - 0.3 * line.max()
    column, row = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    found = SkyCoord(WCS(header).celestial.pixel_to_world(column, row))
    put = SkyCoord(*centre, unit="deg").directional_offset_by(  # along a great circle: nothing of the script's geometry
        np.degrees(np.arctan2(*SOURCE)) * found.ra.unit, np.hypot(*SOURCE) / 3600.0 * found.ra.unit
    )
    assert found.separation(put).arcsec < 0.1 * BEAM
    assert header["BMAJ"] * 3600.0 == pytest.approx(BEAM * np.hypot(1.0, 0.5))
    peak = float(np.nanmax(cube))
    assert 0.6 < peak / 30.0 < 1.0  # (1 / 1.25) of a point source is left by a kernel of half the beam
    nu = header["CRVAL3"] + (np.arange(32) + 1 - header["CRPIX3"]) * header["CDELT3"]
    assert abs(nu[np.nanargmax(np.nanmax(cube, axis=(1, 2)))] - (REST + 3e8)) <= 0.5 * abs(header["CDELT3"])
