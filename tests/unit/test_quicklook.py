"""What the report and the plots draw: the sky found again from L1, integrated intensity, maps, memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from calib_gpu.qa import quicklook
from calib_gpu.qa.products import open_products
from calib_gpu.qa.sky_check import Sky, reference_subscans, sky_of
from calib_gpu.records import ScanId
from report_page import calibrated
from small_scan import H_OVER_K, SmallScan, small_scan

SCAN = ScanId(25650)


def true_sky(scan: SmallScan) -> np.ndarray:
    """T'_sky [C,R,A] of the forward model of the small scan: counts of the OFF less receiver noise, over the gain."""
    off = scan.counts[:, 0, :, :, 0]
    return np.asarray(off / scan.truth["gain"] - scan.truth["trec"])


@pytest.mark.parametrize("convention", ["planck", "callen_welton"])
def test_the_sky_comes_back_from_l1(tmp_path: Path, convention: str) -> None:
    """T_sys t_s g_s eta_f - T_rec is the sky of the forward model, and so is the fit of noise-free data."""
    scan = small_scan()
    l1 = calibrated(scan.store(tmp_path / "l0.zarr"), trec_convention=convention)
    products = open_products(l1, SCAN)
    sky, truth = sky_of(products), true_sky(scan)
    assert isinstance(sky, Sky)
    for r, a in products.pixels:
        t_sys, t_rec = products.pixel("t_sys", r, a), products.pixel("trec", r, a)
        for on in range(products.shape[4]):
            assert sky.observed(r, a, on, t_sys[:, on], t_rec) == pytest.approx(truth[:, r, a], rel=1e-9)
            assert sky.fitted(r, a, on) == pytest.approx(truth[:, r, a], rel=1e-7)
    half = 0.5 * H_OVER_K * 492e9
    shift = scan.truth["trec"][:, 0, 0] - products.pixel("trec", 0, 0)
    assert np.median(shift) == pytest.approx(0.0 if convention == "planck" else half, abs=0.3)


def test_zero_level_drops_out_of_the_sky(tmp_path: Path) -> None:
    scan = small_scan(zero=5e4)
    products = open_products(calibrated(scan.store(tmp_path / "l0.zarr"), zero_level=5e4), SCAN)
    sky = sky_of(products)
    assert isinstance(sky, Sky)
    truth = (scan.counts[:, 0, 0, 0, 0] - 5e4) / scan.truth["gain"][:, 0, 0] - scan.truth["trec"][:, 0, 0]
    seen = sky.observed(0, 0, 0, products.pixel("t_sys", 0, 0)[:, 0], products.pixel("trec", 0, 0))
    assert seen == pytest.approx(truth, rel=1e-8)


def test_where_there_is_no_fit_the_reason_is_told(tmp_path: Path) -> None:
    l0 = small_scan().store(tmp_path / "l0.zarr")
    sky = sky_of(open_products(calibrated(l0, pwv=0.6), SCAN))
    assert isinstance(sky, Sky)
    assert (sky.model, sky.why) == (None, "the water vapour was given, not fitted")
    assert np.isnan(sky.fitted(0, 0, 0)).all()


def test_references_are_those_of_the_pairing(tmp_path: Path) -> None:
    products = open_products(calibrated(small_scan().store(tmp_path / "l0.zarr")), SCAN)
    # OFF ON ON OFF ON: the first ON has OFF 0, the second OFF 3, and so has the third
    assert reference_subscans(products, 4) == [0, 1]
    assert reference_subscans(products, 1) == [0]


def test_envelope_keeps_a_narrow_spike() -> None:
    values = np.zeros(16384)
    values[777], values[778] = 50.0, np.nan
    low, mean, high = quicklook.envelope(values, 128)
    assert (low[6], mean[6], high[6]) == (0.0, pytest.approx(50.0 / 127), 50.0)
    assert high.sum() == 50.0
    assert np.isnan(quicklook.envelope(np.full(64, np.nan), 8)).all()


def test_integrated_intensity_of_a_known_line() -> None:
    """A Gaussian of 3 K and 20 km/s on a baseline of 5 K has 3 * 20 * sqrt(pi / (4 ln 2)) K km/s."""
    frequency = 492e9 + np.arange(4096) * 1e6
    centre, width = 493e9, 20e3 / 299_792_458.0 * 493e9
    line = 3.0 * np.exp(-4.0 * np.log(2.0) * ((frequency - centre) / width) ** 2)
    noise = np.random.default_rng(1).normal(0.0, 0.02, frequency.size)
    cells = quicklook.bin_mean(5.0 + line + noise, 128)[None].astype(np.float32)
    window = quicklook.LineWindow.of(cells[0].astype(float), frequency)
    assert window.found
    assert window.low < centre < window.high
    expected = 3.0 * 20.0 * np.sqrt(np.pi / (4.0 * np.log(2.0)))
    assert quicklook.integrated_intensity(cells, window, frequency)[0] == pytest.approx(expected, rel=0.03)
    falling = quicklook.integrated_intensity(
        cells[:, ::-1], quicklook.LineWindow.of(cells[0, ::-1].astype(float), frequency[::-1]), frequency[::-1]
    )
    assert falling[0] == pytest.approx(expected, rel=0.03)


def test_no_line_is_no_line() -> None:
    spectrum = np.random.default_rng(2).normal(0.0, 1.0, 128)
    window = quicklook.LineWindow.of(spectrum, 492e9 + np.arange(1024) * 1e6)
    assert (window.found, window.bins.all()) == (False, True)
    empty = quicklook.LineWindow.of(np.full(128, np.nan), 492e9 + np.arange(1024) * 1e6)
    assert not empty.found


def test_a_source_lands_where_it_is() -> None:
    """A Gaussian source at (+60, -30) arcsec: centroid of the map, scale, and edges of the axes."""
    rng = np.random.default_rng(3)
    lon, lat = (rng.uniform(-150, 150, 20_000) / 3600.0 for _ in range(2))
    x, y = 3600.0 * lon - 60.0, 3600.0 * lat + 30.0
    values = 100.0 * np.exp(-4 * np.log(2) * (x**2 + y**2) / 80.0**2)
    made = quicklook.grid_map(lon, lat, values, 48)
    assert made is not None
    assert made.hits.sum() == 20_000
    n_y, n_x = made.values.shape
    grid_x = made.x[0] + (np.arange(n_x) + 0.5) * made.cell
    grid_y = made.y[0] + (np.arange(n_y) + 0.5) * made.cell
    assert (made.x[1], made.y[1]) == pytest.approx((grid_x[-1] + 0.5 * made.cell, grid_y[-1] + 0.5 * made.cell))
    peak = np.unravel_index(np.nanargmax(made.values), made.values.shape)
    assert (grid_x[peak[1]], grid_y[peak[0]]) == pytest.approx((60.0, -30.0), abs=made.cell)
    assert np.nanmax(made.values) == pytest.approx(100.0, rel=0.05)
    assert np.nansum(made.values) * made.cell**2 == pytest.approx(100.0 * 80.0**2 * np.pi / (4 * np.log(2)), rel=0.05)


def test_one_position_is_no_map() -> None:
    assert quicklook.grid_map(np.zeros(50), np.zeros(50), np.ones(50), 48) is None


def test_memory_does_not_grow_with_the_scan(tmp_path: Path) -> None:
    """Reading a pixel holds a block of dumps, not a subscan."""
    from calib_gpu.simulate import realistic, simulate

    l0 = tmp_path / "l0.zarr"
    simulate(l0, realistic("tiny", shape=(8192, 64, 1, 1, 4), n_scans=1, night=False), workers=1)
    products = open_products(calibrated(l0), SCAN)
    binning = quicklook.Binning.of(products)
    tracemalloc.start()
    quicklook.read_pixel(products, 0, 0, binning)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    subscan = 8 * 8192 * 64
    block = 8 * 8192 * products.arrays["spectra"].read_chunk[1]
    assert block < subscan
    assert peak < 5 * block
