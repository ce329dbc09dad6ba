"""SDFITS opened by dysh and pyspeckit: frequencies and radio velocities to 1e-9, the same numbers, the same flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export_store import REST, export, group, place

fits = pytest.importorskip("astropy.io.fits", reason="not tried with dysh and pyspeckit: astropy is not here")
LIGHT = 299792458.0


@pytest.fixture(scope="module")
def file(l1: Path) -> Path:
    return export(l1)


def test_dysh_opens_it_with_the_right_axes(l1: Path, file: Path, program: Callable[[str], Any]) -> None:
    load = program("dysh.fits.sdfitsload")
    sdf = load.SDFITSLoad(str(file))
    for table, rows in ((0, (0, 31)), (1, (0, 9, 63))):
        for k in rows:
            row = fits.getdata(file, table + 1)[k]
            d, r, a, s = place(row)
            stored = group(l1, int(row["SCAN"]))
            spectrum = sdf.getspec(k, bintable=table, setmask=True)
            nu = stored["frequency_signal"][:]
            np.testing.assert_allclose(spectrum.spectral_axis.to_value("Hz"), nu, rtol=1e-9)
            np.testing.assert_allclose(spectrum.velocity.to_value("m/s"), LIGHT * (1 - nu / REST), rtol=1e-9, atol=1e-3)
            values = stored["spectra"][:, d, r, a, s]
            good = np.isfinite(values)
            np.testing.assert_array_equal(np.asarray(spectrum.flux.value)[good], values[good])
            assert spectrum.flux.unit == "K"
            assert (np.asarray(spectrum.mask) == ~good).all()
            assert (spectrum.meta["OBJECT"], spectrum.meta["EXPOSURE"]) == ("test source", 3.0)
            assert spectrum.target.ra.deg == pytest.approx(row["CRVAL2"])
    gbt = program("dysh.fits.gbtfitsload").GBTFITSLoad(str(file))
    np.testing.assert_allclose(
        gbt.getspec(3).spectral_axis.to_value("Hz"), group(l1, 25651)["frequency_signal"][:], rtol=1e-9
    )


def test_pyspeckit_opens_it_with_the_right_axes(l1: Path, file: Path, program: Callable[[str], Any]) -> None:
    pyspeckit = program("pyspeckit")
    with fits.open(file) as hdus:
        row = hdus[2].data[9]
        known = {n: row[n] for n in hdus[2].columns.names if n not in ("DATA", "FLAGS") and row[n] == row[n]}
        header = fits.Header(known | {"CUNIT1": "Hz"})
        spectrum = pyspeckit.Spectrum(fits.PrimaryHDU(row["DATA"], header), filetype="pyfits")
    d, r, a, s = place(row)
    nu = group(l1, 25650)["frequency_signal"][:]
    np.testing.assert_allclose(spectrum.xarr.to("Hz").value, nu, rtol=1e-9)
    np.testing.assert_allclose(spectrum.xarr.as_unit("km/s").value, LIGHT / 1e3 * (1 - nu / REST), rtol=1e-9, atol=1e-6)
    values = group(l1, 25650)["spectra"][:, d, r, a, s]
    good = np.isfinite(values)
    np.testing.assert_array_equal(np.asarray(spectrum.data)[good], values[good])
