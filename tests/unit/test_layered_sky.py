"""Skies of a layered atmosphere, computed by am itself for each PWV and airmass, calibrated with the tables of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import Settings, calibrate
from small_scan import SmallScan, small_scan

pytest.importorskip("am", reason="am-python is not here: pip install 'calib-gpu[atm]'")
from layered_sky import LayeredSky

CHANNELS = 16
STEP = 4e9 / CHANNELS
BANDS = {461: (461e9, 473e9), 492: (492e9, 480e9), 810: (810e9, 798e9)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("am")


@pytest.fixture(scope="module")
def air(cache: Path) -> LayeredSky:
    return LayeredSky(cache)


def scan_of(air: LayeredSky, band: int, pwv: float, elevation: float) -> SmallScan:
    """4 GHz in both sidebands; centres on multiples of the channel spacing, which is not that of the table."""
    centres = tuple(round(nu / STEP) * STEP for nu in BANDS[band])
    scan = small_scan(
        shape=(CHANNELS, 1, 1, 1), modes=("OFF", "ON"), pwv=pwv, elevation_deg=elevation, bands_hz=centres, air=air,
    )  # fmt: skip
    scan.source["t_spill"] = scan.source["tamb"].copy()  # what small_scan spills; the air has a temperature of its own
    scan.source["tamb"] = np.full(2, air.ground_k)
    return scan


def found(folder: Path, scan: SmallScan, **settings: Any) -> tuple[float, np.ndarray, Any]:
    """PWV over the truth, T_A* over the truth ``[C]``, each less 1; the scan in L1."""
    folder.mkdir()
    l0 = scan.store(folder / "l0.zarr")
    report = calibrate(l0, folder / "l1.zarr", Settings(**({"t_atm": "table", "t_bg": 2.725} | settings)))
    assert report.failures == [], report.failures
    l1 = zarr.open_group(str(folder / "l1.zarr"), mode="r")["scan_025650"]
    ta = scan.truth["t_signal"] / np.exp(-l1["airmass"][0] * l1["tau_signal"][:])  # where there is a line and where not
    line = scan.truth["ta"][:, 0, 0, 0, 0] > 1.0
    np.testing.assert_allclose(
        l1["spectra"][:, 0, 0, 0, 0][line], (ta * scan.truth["ta"][:, 0, 0, 0, 0])[line], rtol=1e-9
    )
    return l1.attrs["pwv_mm"] / scan.truth["pwv"] - 1.0, ta - 1.0, l1


@pytest.mark.parametrize("band", list(BANDS))
def test_pwv_and_ta_are_right_to_three_per_mille(tmp_path: Path, air: LayeredSky, band: int) -> None:
    """PWV 0.2 to 1 mm, elevation 25 to 80 deg: the worst of all is 0.21 % (PWV) and 0.20 % (T_A* of any channel)."""
    for pwv in (0.2, 0.5, 1.0):
        for elevation in (25.0, 45.0, 80.0):
            water, ta, l1 = found(tmp_path / f"{pwv}-{elevation}", scan_of(air, band, pwv, elevation))
            assert l1.attrs["pwv_status"] == "ok"
            assert abs(water) < 0.003, (pwv, elevation)
            assert np.abs(ta).max() < 0.003, (pwv, elevation)
            assert l1.attrs["qa"]["pwv_rms_k"] < 0.1
            assert l1.attrs["qa"]["dry_scale_suggested"] is None
            assert not l1.attrs["scan_flags"] & 128
            assert l1.attrs["warnings"] == []


@pytest.mark.parametrize("band", list(BANDS))
def test_air_at_ground_temperature_is_wrong_by_several_per_cent(tmp_path: Path, air: LayeredSky, band: int) -> None:
    """The slab at ambient temperature errs low: 8 to 15 % in PWV, 2 to 8 % in T_A* (another profile: 6.8 % and 2.1 %)."""
    for pwv in (0.2, 0.5):
        water, ta, l1 = found(tmp_path / f"{pwv}", scan_of(air, band, pwv, 45.0), t_atm="ambient")
        assert -0.15 < water < -0.07
        assert -0.09 < np.median(ta) < -0.015
        assert l1.attrs["scan_flags"] & 128


def test_the_emission_follows_the_temperature_at_the_ground(tmp_path: Path, cache: Path) -> None:
    """An atmosphere 5 K warmer at the ground, and less so above: with its tamb T_A* is right, without it 2.4 % off.

    The PWV is that of the table's atmosphere: 5 % low, because warm water absorbs less, and b is for 265 K.
    """
    warm = LayeredSky(cache, ground_k=270.0)
    scan = scan_of(warm, 492, 0.5, 45.0)
    water, ta, l1 = found(tmp_path / "told", scan)
    assert l1.attrs["receiver"]["t_atm"] == {"value": "table", "from": "option", "t_ground": 265.0, "tamb": 270.0}
    scan.source["tamb"] = np.full(2, 265.0)
    stale, stale_ta, _ = found(tmp_path / "stale", scan)
    del scan.source["tamb"]
    none, _, l1 = found(tmp_path / "none", scan)
    assert none == stale
    assert any("L0 has no ground temperature" in line for line in l1.attrs["warnings"])
    assert "tamb" not in l1.attrs["receiver"]["t_atm"]
    assert np.abs(ta).max() < 0.003
    assert 0.02 < np.median(stale_ta) < 0.03
    assert -0.06 < water < stale < 0.0
