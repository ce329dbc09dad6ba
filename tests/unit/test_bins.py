"""Counts averaged in bins for the fit of the water vapour: the same answer as with every channel, narrow lines or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import Settings, calibrate
from calib_gpu.atm.builtin import builtin_table
from calib_gpu.physics import sky
from calib_gpu.physics.atmosphere import bin_means, bin_starts, bin_sums
from calib_gpu.settings import AUTO_BINS
from small_scan import Air, SmallScan, planck, slab, small_scan

CHANNELS = 6144
BAND = (470.8e9, 463.3e9)
"""Both sidebands have strong lines of ozone, narrower than a bin of 4 MHz."""


def layers(nu: np.ndarray, pwv: float, x: float) -> tuple[np.ndarray, np.ndarray]:
    """The opacity of the package's table in air of 260, 245 and 220 K, added up layer by layer."""
    through, _ = slab(260.0)(nu, pwv, x)
    tau, sky, seen = -np.log(through), np.zeros_like(nu), np.ones_like(nu)
    for share, t in ((0.5, 260.0), (0.3, 245.0), (0.2, 220.0)):
        part = np.exp(-share * tau)
        sky += seen * (1.0 - part) * planck(nu, t)
        seen = seen * part
    return through, sky


def scan_of(air: Air | None, n_channel: int = CHANNELS) -> SmallScan:
    return small_scan(modes=("OFF", "ON"), shape=(n_channel, 1, 1, 2), bands_hz=BAND, air=air)


def pwv(folder: Path, scan: SmallScan, **options: Any) -> Any:
    """Attributes of the scan in L1."""
    folder.mkdir()
    report = calibrate(scan.store(folder / "l0.zarr"), folder / "l1.zarr", Settings(workers=1, **options))
    assert report.failures == [], report.failures
    return zarr.open_group(str(folder / "l1.zarr"), mode="r")["scan_025650"].attrs


def test_the_band_has_lines_narrower_than_a_bin() -> None:
    table, (low, high) = builtin_table("cerro-chajnantor-455-500GHz"), (BAND[0] - 2e9, BAND[0] + 2e9)
    nu = np.arange(low, high, 0.25e6)
    t = np.exp(-1.3 * table.opacity(nu, None, 53_000.0).tau(0.6)[0])
    starts = bin_starts(nu.size, AUTO_BINS)
    inside = np.repeat(bin_means(t, starts), np.diff(starts, append=nu.size))
    assert np.abs(t - inside).max() > 0.01


@pytest.mark.parametrize("air", [None, layers], ids=["slab", "layers"])
@pytest.mark.parametrize("t_atm", ["ambient", "table"])
def test_bins_and_channels_agree(tmp_path: Path, air: Air | None, t_atm: str) -> None:
    """1e-5 in the water vapour where each bin is 6 channels wide; for a slab taken as one both are the truth."""
    found = {n: pwv(tmp_path / str(n), scan_of(air), t_atm=t_atm, fit_bins=n) for n in (0, "auto", AUTO_BINS)}
    every, auto = found[0]["pwv_mm"], found["auto"]["pwv_mm"]
    assert auto == found[AUTO_BINS]["pwv_mm"]
    assert auto != every
    assert auto == pytest.approx(every, rel=1e-5)
    if air is None and t_atm == "ambient":
        assert every == pytest.approx(0.6, rel=1e-9)
        assert auto == pytest.approx(0.6, rel=1e-5)


def test_the_opacity_of_the_mean_transmission_is_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exp of the mean opacity errs by more than fifty times what is left of the bins."""
    right = abs(pwv(tmp_path / "a", scan_of(None))["pwv_mm"] / 0.6 - 1.0)

    def exp_of_mean(self: sky.Slab, w: float, x: float) -> np.ndarray:
        starts = bin_starts(self.b.size, AUTO_BINS)
        tau = np.repeat(bin_means(self.b * w + self.c, starts), np.diff(starts, append=self.b.size))
        return np.asarray(np.exp(-x * tau))

    monkeypatch.setattr(sky.Slab, "value", exp_of_mean)
    wrong = abs(pwv(tmp_path / "b", scan_of(None))["pwv_mm"] / 0.6 - 1.0)
    assert wrong > 1e-6
    assert right < wrong / 50.0


def test_a_window_takes_its_channels_out_of_the_bins(tmp_path: Path) -> None:
    """Windows of three channels on the flanks of lines: the model is the mean over these, not over the whole bin."""
    table = builtin_table("cerro-chajnantor-455-500GHz")
    nu = np.arange(BAND[0] - 1.9e9, BAND[0] + 1.9e9, 1e6)
    slope = np.abs(np.diff(table.opacity(nu, None, 53_000.0).c_signal))
    steep = nu[np.argsort(slope)[-20:]] / 1e9
    windows = ",".join(f"{f - 0.001:.6f}:{f + 0.001:.6f}" for f in steep)
    found = pwv(tmp_path / "a", scan_of(None), fit_windows=windows)
    assert found["pwv_mm"] == pytest.approx(0.6, rel=3e-6)


@pytest.mark.parametrize(("channels", "bins"), [(1024, None), (4096, None), (4097, 1024), (16384, 1024), (65536, 1024)])
def test_auto_bins_large_bands_alone(channels: int, bins: int | None) -> None:
    assert Settings().bins_of(channels) == bins
    assert Settings(fit_bins=0).bins_of(channels) is None
    assert Settings(fit_bins=300).bins_of(channels) == 300
    assert Settings(fit_bins=300).bins_of(100) == 100


def test_small_bands_are_not_touched(tmp_path: Path) -> None:
    auto, every = (pwv(tmp_path / str(n), scan_of(None, 512), fit_bins=n) for n in ("auto", 0))
    assert (auto["pwv_mm"], auto["pwv_err_mm"]) == (every["pwv_mm"], every["pwv_err_mm"])


@pytest.mark.parametrize("starts", [bin_starts(112, n) for n in (1, 7, 16, 100)] + [np.array([0, 5, 60, 61])])
def test_sums_and_means_of_bins(starts: np.ndarray) -> None:
    values = np.random.default_rng(1).normal(size=(3, 112))
    parts = np.split(values, starts[1:], axis=1)
    np.testing.assert_allclose(bin_sums(values, starts), np.stack([p.sum(1) for p in parts], 1), rtol=1e-10)
    np.testing.assert_allclose(bin_means(values, starts), np.stack([p.mean(1) for p in parts], 1), rtol=1e-10)
