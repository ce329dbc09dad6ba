"""L1 as spectra of specutils: values, axes, mask, velocities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calib_gpu

pytest.importorskip("xarray", reason="not tried with specutils: xarray is not here")
REST_GHZ = 492.160651


def test_specutils(l1: Path, program: Callable[[str], Any]) -> None:
    program("specutils")
    from astropy import units as u

    scan = calib_gpu.open_l1(l1, 25650)
    one = scan.calib.average().isel(R=1, A=0)
    spectrum = one.calib.to_spectrum(REST_GHZ)
    assert spectrum.flux.unit == u.K
    np.testing.assert_array_equal(spectrum.flux.value, one.spectra.values)
    np.testing.assert_array_equal(spectrum.spectral_axis.to_value("Hz"), scan.frequency_signal.values)
    assert (spectrum.mask == np.isnan(one.spectra.values)).all()
    assert spectrum.mask[20]
    expected = scan.calib.velocity(REST_GHZ * u.GHz).values
    np.testing.assert_allclose(spectrum.velocity.to_value("km/s"), expected, rtol=1e-9, atol=1e-9)
    cube = scan.calib.to_spectrum(REST_GHZ)
    assert cube.shape == (3, 2, 2, 3, 64)  # D,R,A,S, spectral axis last
    np.testing.assert_array_equal(cube.flux.value, np.moveaxis(scan.spectra.values, 0, -1))
    assert scan.isel(D=0, R=0, A=0, S=0).calib.to_spectrum().flux.shape == (64,)  # without rest frequency
