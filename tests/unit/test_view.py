"""L1 in xarray: labels, velocities, flags by name, weighted means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

import calib_gpu
from calib_gpu import ConfigError, StoreUnusable, calibrate
from calib_gpu.schema import Flag
from calib_gpu.store.l0_write import L0Writer
from calib_gpu.view.velocity import velocity
from small_scan import small_scan, two_bands

xr = pytest.importorskip("xarray")

REST_GHZ = 492.160651
REST = 1e9 * REST_GHZ
C = 299792458.0


@pytest.fixture(scope="module")
def l1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans with noise, holes, a bad channel and pixel offsets."""
    folder = tmp_path_factory.mktemp("view")
    store = L0Writer(folder / "l0.zarr", {})
    rng = np.random.default_rng(2)
    for k in range(2):
        scan = small_scan(25650 + k, shape=(64, 3, 2, 2), mjd=60000.0 + k / 100)
        scan.counts *= 1.0 + 0.01 * rng.standard_normal(scan.counts.shape)
        scan.counts[20:24, 1, 0, 1, 2] = np.nan
        scan.counts[30, 0, 1, 0, 1] = -5.0
        assert scan.loads is not None
        scan.loads[40, :, :, :, 1] = 1e9  # COLD above HOT
        scan.source["exptime"] = np.array([9.0, 9.0, 18.0, 9.0, 27.0])
        scan.source["otf_lon"] = 0.01 * np.arange(15.0).reshape(3, 5)
        scan.source["pixel_offset_lon"] = np.array([[0.0, 0.5], [1.0, 1.5]])
        scan.source["pixel_offset_lat"] = np.array([[0.0, 0.25], [0.5, 0.75]])
        scan.write(store, "float64")
    calibrate(folder / "l0.zarr", folder / "l1.zarr")
    return folder / "l1.zarr"


def test_a_scan_is_what_zarr_holds_with_units_and_coordinates(l1: Path) -> None:
    scan = calib_gpu.open_l1(l1, 25650)
    group = zarr.open_group(str(l1), mode="r")["scan_025650"]
    assert set(scan.variables) == set(group)
    for name in group:
        np.testing.assert_array_equal(scan[name].values, group[name][:])
        assert scan[name].attrs.get("units") == group[name].attrs.get("units")
    assert scan.spectra.dims == ("C", "D", "R", "A", "S")
    assert {"frequency_signal", "mjd", "otf_lon", "frontend_backends"} <= set(scan.coords)
    assert scan.attrs["scan_number"] == 25650
    assert scan.flags.dtype == np.uint16


def test_a_store_is_a_tree(l1: Path, tmp_path: Path) -> None:
    tree = calib_gpu.open_l1(l1)
    assert list(tree.children) == ["scan_025650", "scan_025651"]
    xr.testing.assert_identical(tree["scan_025651"].to_dataset(), calib_gpu.open_l1(l1, "scan_025651"))
    assert tree.attrs["format"] == "l1-heterodyne"
    calibrate(two_bands(tmp_path / "l0.zarr"), tmp_path / "l1.zarr")
    tree = calib_gpu.open_l1(tmp_path / "l1.zarr")
    assert tree["scan_025650/band_LFA"].spectra.sizes["C"] == 16
    assert calib_gpu.open_l1(tmp_path / "l1.zarr", "25650/band_HFA").spectra.shape == (16, 2, 1, 1, 3)
    with pytest.raises(ConfigError, match="band_HFA, scan_025650/band_LFA"):
        calib_gpu.open_l1(tmp_path / "l1.zarr", 25650)


def test_what_is_not_there_is_named(l1: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 scans, scan_025650 to scan_025651"):
        calib_gpu.open_l1(l1, 1)
    with pytest.raises(StoreUnusable, match="no such directory"):
        calib_gpu.open_l1(tmp_path / "nothing")
    with pytest.raises(StoreUnusable, match="not an L1 store"):
        calib_gpu.open_l1(l1.with_name("l0.zarr"))


def test_arrays_are_lazy_with_dask(l1: Path) -> None:
    dask = pytest.importorskip("dask.array")
    scan = calib_gpu.open_l1(l1, 25650)
    assert isinstance(scan.spectra.data, dask.Array)
    mean = scan.calib.average()
    assert isinstance(mean.spectra.data, dask.Array)
    assert np.isfinite(mean.spectra.compute()).sum() > 0


def test_velocities(l1: Path) -> None:
    scan = calib_gpu.open_l1(l1, 25650)
    nu = scan.frequency_signal.values
    ratio = nu / REST
    for convention, expected in (
        ("radio", C * (1 - ratio)), ("optical", C * (1 / ratio - 1)), ("relativistic", C * (1 - ratio**2) / (1 + ratio**2)),
    ):  # fmt: skip
        axis = scan.calib.velocity(REST_GHZ, convention)
        np.testing.assert_allclose(axis, expected / 1e3, rtol=1e-12, atol=1e-9)
        assert axis.attrs["units"] == "km/s"
    assert velocity(REST * (1 - 1e-6), REST, "radio") == pytest.approx(299.792458, rel=1e-9)
    assert velocity(REST / (1 + 1e-6), REST, "optical") == pytest.approx(299.792458, rel=1e-9)
    beta = 0.1
    shifted = REST * np.sqrt((1 - beta) / (1 + beta))
    assert velocity(shifted, REST, "relativistic") == pytest.approx(beta * C, rel=1e-12)
    indexed = scan.calib.with_velocity(REST_GHZ)
    near = indexed.spectra.sel(C=0.0, method="nearest")
    assert abs(float(near.C)) <= 0.5 * abs(float(indexed.C[1] - indexed.C[0]))
    assert indexed.calib.velocity().values == pytest.approx(
        scan.calib.velocity(REST_GHZ).values
    )  # noted in the attributes
    for wrong, word in ((lambda: scan.calib.velocity(), "rest frequency"), (lambda: scan.calib.velocity(-1.0), "GHz, > 0"),
                        (lambda: scan.calib.velocity(REST), "looks like Hz"),
                        (lambda: scan.calib.velocity(REST_GHZ, "lsr"), "radio | optical")):  # fmt: skip
        with pytest.raises(ConfigError, match=word.replace("|", r"\|")):
            wrong()


def test_flags_by_name(l1: Path) -> None:
    scan = calib_gpu.open_l1(l1, 25650)
    flags = scan.flags.values
    for flag in Flag:
        np.testing.assert_array_equal(scan.calib.flagged(flag.name), flags & flag != 0)
    both = scan.calib.flagged("bad_channel", "FILL_VALUE")
    np.testing.assert_array_equal(both, flags & (Flag.BAD_CHANNEL | Flag.FILL_VALUE) != 0)
    np.testing.assert_array_equal(scan.calib.flagged(), flags != 0)
    assert 0 < int(both.sum()) < int(scan.calib.flagged().sum())
    np.testing.assert_array_equal(np.isnan(scan.calib.masked()), flags != 0)
    later = scan.copy(deep=True).load()
    later.flags[5, 0, 0, 0, 0] = Flag.RFI | Flag.SPIKE  # what a later step found
    assert np.isnan(later.calib.masked("rfi")[5, 0, 0, 0, 0])
    assert np.isfinite(later.calib.masked("manual")[5, 0, 0, 0, 0])
    with pytest.raises(ConfigError, match="bad_channel, fill_value"):
        scan.calib.flagged("bad")


@pytest.mark.parametrize("weights", ["t_sys", "exptime", "none"])
def test_the_mean_is_that_of_a_loop(l1: Path, weights: str) -> None:
    scan = calib_gpu.open_l1(l1, 25650).load()
    mean = scan.calib.average(weights=weights)
    assert mean.spectra.dims == ("C", "R", "A")
    assert "frequency_signal" in mean.coords
    assert mean.spectra.attrs["units"] == "K"
    x, noise, time = scan.spectra.values, scan.t_sys.values, scan.exptime_on.values
    assert len(set(time)) > 1
    for c, r, a in ((3, 0, 0), (21, 0, 1), (30, 1, 0), (40, 0, 0)):
        total = weight_sum = seconds = sensitivity = 0.0
        for d in range(3):
            for s in range(3):
                if np.isnan(x[c, d, r, a, s]):
                    continue
                w = {"t_sys": time[s] / noise[c, r, a, s] ** 2, "exptime": time[s], "none": 1.0}[weights]
                total, weight_sum = total + w * x[c, d, r, a, s], weight_sum + w
                seconds, sensitivity = seconds + time[s], sensitivity + time[s] / noise[c, r, a, s] ** 2
        got = mean.isel(C=c, R=r, A=a)
        if c == 40:  # bad in every dump
            assert np.isnan(got.spectra)
            assert np.isnan(got.t_sys)
            assert got.exptime == 0.0
        else:
            assert float(got.spectra) == pytest.approx(total / weight_sum, rel=1e-12)
            assert float(got.exptime) == pytest.approx(seconds, rel=1e-12)
            assert float(got.t_sys) == pytest.approx((seconds / sensitivity) ** 0.5, rel=1e-12)


def test_some_axes_and_some_flags(l1: Path) -> None:
    scan = calib_gpu.open_l1(l1, 25650).load()
    per_subscan = scan.calib.average("D")
    assert per_subscan.spectra.dims == ("C", "R", "A", "S")
    np.testing.assert_allclose(per_subscan.spectra, scan.spectra.where(scan.flags == 0).mean("D"), rtol=1e-12)
    assert scan.isel(S=0, D=1).calib.average().spectra.dims == ("C", "R", "A")
    scan.flags[7] = Flag.RFI
    assert np.isnan(scan.calib.average().spectra[7]).all()
    assert np.isfinite(scan.calib.average(flags=["bad_channel"]).spectra[7]).all()
    with pytest.raises(ConfigError, match="t_sys"):
        scan.calib.average(weights="rms")


def test_offsets_are_beam_plus_pixel(l1: Path) -> None:
    scan = calib_gpu.open_l1(l1, 25650)
    at = scan.calib.offsets()
    assert at.lon.dims == at.lat.dims == ("D", "R", "A", "S")
    assert float(at.lon[2, 1, 0, 1]) == pytest.approx(0.01 * (2 * 5 + 2) + 1.0)  # dump 2 of the second ON, subscan 2
    assert float(at.lat[0, 1, 1, 2]) == pytest.approx(0.75)
    without = scan.drop_vars(["otf_lon", "otf_lat", "pixel_offset_lon", "pixel_offset_lat"]).calib.offsets()
    assert without.lon.shape == (3, 2, 2, 3)
    assert not without.lon.any()


def test_a_missing_package_names_the_extra(l1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = calib_gpu.open_l1(l1, 25650).load()
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.setitem(sys.modules, "specutils", None)
    with pytest.raises(ConfigError, match=r"calib-gpu\[xarray\]"):
        calib_gpu.open_l1(l1, 25650)
    with pytest.raises(ConfigError, match=r"calib-gpu\[specutils\]"):
        scan.calib.to_spectrum()


def test_the_package_does_not_import_xarray() -> None:
    code = "import sys, calib_gpu; calib_gpu.calibrate; assert 'xarray' not in sys.modules; assert 'open_l1' in dir(calib_gpu)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
