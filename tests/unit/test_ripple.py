"""Standing waves in the baseline: found with their period and amplitude, and told apart from lines and from noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu.physics.robust import median
from calib_gpu.qa.metrics import WARN_ABOVE
from calib_gpu.qa.ripple import fill_gaps, line_free, ripple, window_sum
from calib_gpu.simulate import realistic, simulate
from report_page import calibrated

LIMIT = WARN_ABOVE["baseline_ripple_ratio"]
SPACING = 1e6  # Hz
SEEDS = range(20)


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def line(n: int, peak: float, width: float, at: float = 0.4) -> np.ndarray:
    """A Gaussian of FWHM ``width`` channels."""
    return peak * np.exp(-4.0 * np.log(2.0) * ((np.arange(n) - at * n) / width) ** 2)


@pytest.mark.parametrize("n", [256, 1024, 16384])
def test_noise_alone_is_sqrt_2_ln_n(n: int) -> None:
    """The peak of N Rayleigh-distributed amplitudes: sqrt(2 ln N) of the quadrature noise, a third of it here."""
    found = [ripple(noise(n, seed), SPACING)[2] for seed in SEEDS]
    n_periods = n / 20.0
    assert np.median(found) == pytest.approx(np.sqrt(2.0 * np.log(n_periods)) / 3.0, rel=0.25)
    assert max(found) < LIMIT / 1.5


@pytest.mark.parametrize("width", [4.0, 15.0, 60.0])
@pytest.mark.parametrize("peak", [3.0, 8.0, 30.0, 1000.0])
def test_a_line_is_no_ripple(peak: float, width: float) -> None:
    found = [ripple(noise(2048, seed) + line(2048, peak, width), SPACING)[2] for seed in SEEDS]
    assert max(found) < LIMIT


def test_lines_of_both_signs_and_holes_are_no_ripple() -> None:
    for seed in SEEDS:
        spectrum = noise(2048, seed) + line(2048, 20.0, 20.0) - line(2048, 12.0, 30.0, at=0.7)
        spectrum[:40] = spectrum[900:950] = np.nan
        assert ripple(spectrum, SPACING)[2] < LIMIT


@pytest.mark.parametrize("period", [25.0, 64.0, 100.0, 256.0, 512.0])
@pytest.mark.parametrize("amplitude", [1.0, 10.0, 1000.0])
def test_a_standing_wave_is_found_with_period_and_amplitude(amplitude: float, period: float) -> None:
    n = 2048
    wave = amplitude * np.cos(2.0 * np.pi * np.arange(n) / period + 0.7)
    for seed in SEEDS:
        k, hertz, ratio = ripple(noise(n, seed) + wave + line(n, 3.0 * amplitude, 12.0), SPACING)
        assert ratio > LIMIT
        assert hertz == pytest.approx(period * SPACING, rel=0.03 if period < 200 else 0.15)
        assert k == pytest.approx(amplitude, rel=0.3)  # 15 % where it lies between two bins of the FFT, and noise


def test_the_ratio_is_the_amplitude_over_three_sigma() -> None:
    """A wave on a Fourier frequency: amplitude A; sigma of a Hann-windowed amplitude is sqrt(3 / N) of the noise."""
    n, a = 4096, 2.0
    wave = a * np.cos(2.0 * np.pi * 32 * np.arange(n) / n)
    found = np.mean([ripple(noise(n, seed) + wave, SPACING)[2] for seed in SEEDS])
    assert found == pytest.approx(a / (3.0 * np.sqrt(3.0 / n)), rel=0.05)


def test_neighbours_that_are_correlated_do_not_raise_the_ratio() -> None:
    """An FFT spectrometer: neighbours share noise, and their differences would make it look sqrt 2 too small still."""
    found = [ripple(np.convolve(noise(4097, seed), [0.5, 0.5], mode="valid"), SPACING)[2] for seed in SEEDS]
    assert max(found) < 0.8 * LIMIT


def test_a_wave_is_not_taken_for_lines_and_wings_are() -> None:
    n = 1024
    wave = 5.0 * np.cos(2.0 * np.pi * np.arange(n) / 128.0)
    assert line_free(noise(n, 1) + wave).mean() > 0.99
    free = line_free(noise(n, 1) + line(n, 30.0, 20.0, at=0.5))
    assert not free[512 - 20 : 512 + 20].any()
    assert free[: 512 - 200].mean() > 0.99
    assert free[512 + 200 :].mean() > 0.99


def test_gaps_are_filled_from_means_beside_them() -> None:
    n = 1024
    slope = np.arange(n) / n
    good = np.ones(n, bool)
    good[400:500] = False
    filled = fill_gaps(np.where(good, slope, 1e6), good)
    np.testing.assert_allclose(filled, slope, atol=16 / n)
    noisy = fill_gaps(np.where(good, noise(n, 3), 1e6), good)
    assert np.abs(noisy[400:500]).max() < 1.2  # of 8 channels: 0.35 sigma


@pytest.mark.parametrize(
    "spectrum", [np.full(64, np.nan), np.r_[np.full(63, np.nan), 1.0], np.zeros(64), np.ones(1)], ids=str
)
def test_without_a_spectrum_there_is_no_ratio(spectrum: np.ndarray) -> None:
    assert np.isnan(ripple(spectrum, SPACING)[2])


def qa_of(l1: Path) -> list[dict[str, Any]]:
    return [json.loads((s / "zarr.json").read_text())["attributes"]["qa"] for s in sorted(l1.glob("scan_*"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "others"), [("tiny", set()), ("S", {"bad_channel_fraction", "nan_fraction", "pixel_dead"})]
)
def test_clean_simulated_scans_do_not_warn(tmp_path: Path, preset: str, others: set[str]) -> None:
    """Scans with a strong line, continuum, drifts and interference, but no standing wave; preset S has a dead pixel."""
    simulate(tmp_path / "night.zarr", realistic(preset), workers=1)
    found = qa_of(calibrated(tmp_path / "night.zarr"))
    assert len(found) >= 2
    for qa in found:
        assert set(qa["warnings"]) == others
        ratios = np.array(qa["baseline_ripple_ratio"], float)
        assert np.nanmax(ratios) < 0.75 * LIMIT


@pytest.mark.slow
def test_a_standing_wave_in_the_counts_is_named(tmp_path: Path) -> None:
    """0.4 % of the ON counts with a period of 64 channels: 0.4 % of T_sys, 250 MHz."""
    l0 = tmp_path / "night.zarr"
    simulate(l0, realistic("tiny", n_scans=1, night=False), workers=1)
    counts = zarr.open_array(str(l0 / "scan_025650" / "source" / "data_5d"), mode="r+")
    data = counts[:]
    modes = [str(m) for m in zarr.open_array(str(l0 / "scan_025650" / "source" / "sobsmode"), mode="r")[:]]
    on = [k for k, mode in enumerate(modes) if mode.endswith("ON")]
    wave = 1.0 + 0.004 * np.cos(2.0 * np.pi * np.arange(data.shape[0]) / 64.0)
    seen = data[..., on].astype(np.float64)
    data[..., on] = np.where(seen > 0.0, np.rint(seen * wave[:, None, None, None, None]), seen).astype(data.dtype)
    counts[:] = data
    (qa,) = qa_of(calibrated(l0))
    assert qa["warnings"] == ["baseline_ripple_ratio"]
    np.testing.assert_allclose(np.array(qa["ripple_period_hz"]), 64 * 4e9 / 1024, rtol=0.01)
    np.testing.assert_allclose(np.array(qa["baseline_ripple_k"]), 0.004 * np.array(qa["tsys_median"]), rtol=0.15)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 11])
def test_a_window_sum_is_that_of_its_channels(n: int) -> None:
    values = np.arange(1.0, n + 1.0) ** 2  # whole numbers: exact in any order
    for width in range(1, 2 * n + 3):
        before = (width - 1) // 2
        expected = [values[max(0, k - before) : k - before + width].sum() for k in range(n)]
        np.testing.assert_array_equal(window_sum(values, width), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 101])
def test_the_median_is_that_of_numpy(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    assert median(values) == np.median(values)
    assert np.isnan(median(values[:0]))
