"""The example that grids a map: a simulated point source is where it was put, on the sky and in velocity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu
from calib_gpu.simulate import closure, simulate
from calib_gpu.simulate.model import Model, source_pattern
from calib_gpu.simulate.plan import beam_offsets, pixel_offsets, plan_night

TOP = Path(__file__).parents[2]
BEAM = 26.0
SOURCE = (14.0, -9.0)
REST = 492.160651e9


def point_source(**more: Any) -> Any:
    """A beam-sized source off the centre, observed by seven pixels."""
    shape = (32, 20, 1, 7, 26)
    return closure(
        shape=shape, n_scans=1, night=False, source_size=BEAM, source_lon=SOURCE[0], source_lat=SOURCE[1], continuum=0.0,
        line_peak=30.0, line_width=4e8, line_offset=3e8, **more,
    )  # fmt: skip


def packages_are_here(*names: str) -> bool:
    """Imported in a process of their own: an extension built for another NumPy is no ImportError."""
    call = [sys.executable, "-W", "ignore", "-c", f"import {', '.join(names)}"]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


def test_the_source_is_where_it_was_put() -> None:
    """Amplitudes in the truth: a Gaussian of the beam about the source, at beam plus pixel offset of each dump."""
    config = point_source()
    (scan,) = plan_night(config)
    group = scan.groups[1]
    pattern = source_pattern(config, group)
    lon, lat = beam_offsets(config, group)
    pixel_lon, pixel_lat = pixel_offsets(1, 7)
    for d, a, on in ((0, 0, 0), (11, 3, 9), (19, 6, 17)):
        s = int(group.on_index[on])
        x = 3600.0 * (lon[d, s] + pixel_lon[0, a]) - SOURCE[0]
        y = 3600.0 * (lat[d, s] + pixel_lat[0, a]) - SOURCE[1]
        expected = 2.0 ** (-4.0 * (x * x + y * y) / BEAM**2)
        assert pattern[d, 0, a, on] == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert Model.of(config).line_profile.max() == pytest.approx(30.0, rel=0.05)
    nearest = np.unravel_index(pattern.argmax(), pattern.shape)
    assert pattern[nearest] > 0.9  # the map covers the source


@pytest.mark.slow
@pytest.mark.parametrize("centre", [(83.81, -5.37), (0.001, 61.0)], ids=["Orion", "seam"])
def test_a_point_source_is_within_a_tenth_of_a_beam(tmp_path: Path, centre: tuple[float, float]) -> None:
    if not packages_are_here("cygrid", "spectral_cube"):
        pytest.skip("cygrid or spectral-cube is not here: docs/using-results.md, A map")
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
