"""Settings of the sky model in whole runs: the layers of a table, the dry opacity, windows of the fit; what L1 says of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import ConfigError, Settings, calibrate
from calib_gpu.atm.builtin import builtin_tables
from calib_gpu.qa.metrics import baseline_model
from calib_gpu.qa.products import open_products
from calib_gpu.qa.sky_check import Sky, sky_of
from calib_gpu.records import ScanId
from small_scan import SmallScan, small_scan

SHAPE = (64, 3, 1, 2)


def run(folder: Path, scan: SmallScan, **options: Any) -> Any:
    """The scan in L1."""
    folder.mkdir(exist_ok=True)
    report = calibrate(scan.store(folder / "l0.zarr"), folder / "l1.zarr", Settings(workers=1, **options))
    assert report.failures == [], report.failures
    return zarr.open_group(str(folder / "l1.zarr"), mode="r")["scan_025650"]


def layers(nu: np.ndarray, pwv: float, x: float) -> tuple[np.ndarray, np.ndarray]:
    """A sky of three layers of air at 260, 245 and 220 K, added up one by one; opacity of the package's table."""
    table = builtin_tables()[0]
    tau = sum(np.interp(nu, table.frequency, t[1]) * s for t, s in ((table.b, pwv), (table.c, 1.0)))
    sky, through = np.zeros_like(nu), np.ones_like(nu)
    for share, t in ((0.5, 260.0), (0.3, 245.0), (0.2, 220.0)):
        part = np.exp(-x * share * tau)
        quantum = 4.799243073366221e-11 * nu
        sky += through * (1.0 - part) * quantum / np.expm1(quantum / t)
        through = through * part
    return through, sky


# --- the dry opacity


@pytest.mark.parametrize("options", [
    {"dry_scale": "fit"}, {"dry_scale": "auto"}, {"dry_scale": 1.3}, {"dry_scale": "fit", "fit_weights": "radiometer"},
    {"dry_scale": "fit", "pwv_clip": True}, {"dry_scale": "fit", "pwv_scope": "per_pixel"},
    {"dry_scale": "fit", "pwv_scope": "per_off"}, {"dry_scale": "fit", "fit_bins": 64},
], ids=str)  # fmt: skip
def test_a_dry_opacity_of_its_own_is_found(tmp_path: Path, options: dict[str, Any]) -> None:
    scan = small_scan(shape=SHAPE, dry_scale=1.3)
    out = run(tmp_path, scan, **options)
    attrs = out.attrs
    assert attrs["pwv_status"] == "ok"
    assert attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-6)
    assert attrs["dry_scale"] == pytest.approx(1.3, rel=1e-6)
    np.testing.assert_allclose(out["spectra"][:], scan.truth["ta"], atol=1e-5)
    fitted = isinstance(options["dry_scale"], str)
    assert attrs["dry_scale_status"] == ("ok" if fitted else "fixed")
    assert (attrs["dry_scale_err"] is not None) == fitted
    if fitted:
        assert -1.0 < attrs["dry_scale_pwv_correlation"] < 0.0
    assert attrs["qa"]["pwv_per_off"] == pytest.approx([0.6, 0.6], rel=1e-6)
    if options.get("pwv_scope") == "per_pixel":
        np.testing.assert_allclose(out["pwv"][:], 0.6, rtol=1e-6)


def test_without_it_the_water_vapour_is_off(tmp_path: Path) -> None:
    out = run(tmp_path, small_scan(shape=SHAPE, dry_scale=1.3))
    assert abs(out.attrs["pwv_mm"] / 0.6 - 1.0) > 0.02
    assert (out.attrs["dry_scale"], out.attrs["dry_scale_status"]) == (1.0, "fixed")


def test_auto_leaves_a_good_table_alone(tmp_path: Path) -> None:
    out = run(tmp_path, small_scan(shape=SHAPE), dry_scale="auto")
    assert (out.attrs["dry_scale"], out.attrs["dry_scale_status"]) == (1.0, "fixed")
    assert out.attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)


def test_the_error_grows_by_what_is_not_known(tmp_path: Path) -> None:
    """With radiometer weights, from the same data: sigma_w of both is sigma_w alone over sqrt(1 - correlation^2)."""
    scan = small_scan(shape=SHAPE)
    alone = run(tmp_path / "a", scan, fit_weights="radiometer").attrs
    both = run(tmp_path / "b", scan, fit_weights="radiometer", dry_scale="fit").attrs
    factor = 1.0 / np.sqrt(1.0 - both["dry_scale_pwv_correlation"] ** 2)
    assert both["pwv_err_mm"] == pytest.approx(alone["pwv_err_mm"] * factor, rel=1e-6)
    assert both["pwv_err_mm"] > 1.5 * alone["pwv_err_mm"]


def test_layers_suggest_a_dry_opacity_and_use_none(tmp_path: Path) -> None:
    """A hint in QA where layers misfit; a slab gives none, because its temperature is to blame first."""

    def wrong(nu: np.ndarray, pwv: float, x: float) -> tuple[np.ndarray, np.ndarray]:
        table = builtin_tables()[0]
        b, c = (np.interp(nu, table.frequency, t[1]) for t in (table.b, table.c))
        emission, c = table.emission(nu, 53_000.0).scaled(dry=1.5), 1.5 * c
        return np.exp(-x * (b * pwv + c)), emission.value(b, c, pwv, x)

    scan = small_scan(shape=SHAPE, air=wrong)
    scan.source["t_spill"], scan.source["tamb"] = scan.source["tamb"], np.full(5, 265.0)
    plain = run(tmp_path / "a", scan, t_atm="table").attrs
    assert plain["qa"]["dry_scale_suggested"] == pytest.approx(1.5, rel=1e-3)
    assert plain["dry_scale"] == 1.0
    assert abs(plain["pwv_mm"] / 0.6 - 1.0) > 0.02
    fitted = run(tmp_path / "b", scan, t_atm="table", dry_scale="auto").attrs
    assert (fitted["pwv_mm"], fitted["dry_scale"]) == pytest.approx((0.6, 1.5), rel=1e-7)
    assert fitted["qa"]["dry_scale_suggested"] is None
    assert run(tmp_path / "c", scan, t_atm="factor").attrs["qa"]["dry_scale_suggested"] is None


def test_a_given_water_vapour_takes_a_given_scale(tmp_path: Path) -> None:
    out = run(tmp_path / "a", small_scan(shape=SHAPE, dry_scale=1.3), pwv=0.6, dry_scale=1.3)
    assert out.attrs["dry_scale"] == 1.3
    np.testing.assert_allclose(
        np.exp(-out["airmass"][0] * out["tau_signal"][:]),
        small_scan(shape=SHAPE, dry_scale=1.3).truth["t_signal"],
        rtol=1e-9,
    )
    assert run(tmp_path / "b", small_scan(shape=SHAPE), pwv=0.6, dry_scale="fit").attrs["dry_scale"] == 1.0


def test_a_scale_that_cannot_be_fitted_is_said(tmp_path: Path) -> None:
    out = run(tmp_path, small_scan(shape=SHAPE), dry_scale="fit", min_points=10**6)
    assert out.attrs["dry_scale_status"] == "unconstrained"
    assert out.attrs["dry_scale"] == 1.0
    assert any("dry opacity could not be fitted" in line for line in out.attrs["warnings"])


# --- windows


def test_only_channels_inside_the_windows_count(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.counts[:20, ..., [0, 3]] *= 1.2  # what is wrong below 491.4 GHz
    out = run(tmp_path / "a", scan, fit_windows="491.5:492.5,493:494")
    assert out.attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)
    assert abs(run(tmp_path / "b", scan).attrs["pwv_mm"] - 0.6) > 0.01
    nu = out["frequency_signal"][:]
    n = int(np.count_nonzero((nu >= 491.5e9) & (nu <= 492.5e9) | (nu >= 493e9) & (nu <= 494e9)))
    few = run(tmp_path / "c", scan, fit_windows="491.5:492.5,493:494", min_points=4 * n).attrs  # 2 OFFs, 2 pixels
    assert few["pwv_status"] == "ok"
    many = run(tmp_path / "d", scan, fit_windows="491.5:492.5,493:494", min_points=4 * n + 1).attrs
    assert many["pwv_status"] == "unconstrained"
    binned = run(tmp_path / "e", scan, fit_windows="491.5:492.5,493:494", fit_bins=64).attrs
    assert binned["pwv_mm"] == pytest.approx(0.6, rel=1e-9)


def test_windows_elsewhere_fail_the_scan(tmp_path: Path) -> None:
    report = calibrate(
        small_scan(shape=SHAPE).store(tmp_path / "l0.zarr"), tmp_path / "l1.zarr", Settings(fit_windows="345:346")
    )
    (line,) = report.scans
    assert (line.error, "fit_windows" in line.message) == ("ConfigError", True)


@pytest.mark.parametrize("text", ["492", "493:492", "a:b", "491:492:493", "0:1", "491:nan", "-1:2"])
def test_windows_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="fit_windows"):
        Settings(fit_windows=text)


# --- what L1 says of layers


def test_the_sky_of_layers_comes_back_from_l1(tmp_path: Path) -> None:
    """T_eff in L1 is that of the fitted sky; the report's sky check needs no table."""
    scan = small_scan(shape=SHAPE, air=layers)
    out = run(tmp_path, scan, t_atm="table")
    t_eff = out["t_atm_signal"][:]
    assert np.all((t_eff > 215.0) & (t_eff < 275.0))
    assert out["t_atm_signal"].attrs["units"] == "K"
    products = open_products(tmp_path / "l1.zarr", ScanId(25650))
    sky = sky_of(products)
    assert isinstance(sky, Sky)
    observed = sky.observed(0, 0, 0, products.pixel("t_sys", 0, 0)[:, 0], products.pixel("trec", 0, 0))
    rms = float(np.sqrt(np.mean((observed - sky.fitted(0, 0, 0)) ** 2)))
    assert rms == pytest.approx(out.attrs["qa"]["pwv_rms_k"], rel=0.3)
    assert "t_atm_signal" not in run(tmp_path / "slab", scan)


def test_the_model_of_the_baseline_is_that_of_the_layers(tmp_path: Path) -> None:
    """ON one degree above its OFF, no source: the median of T_A* is what the layers predict."""
    low, high = (small_scan(shape=SHAPE, air=layers, elevation_deg=e) for e in (50.0, 51.0))
    low.counts[..., [1, 2, 4]] = high.counts[..., :1]
    low.source["elevation"][[1, 2, 4]] = np.radians(51.0)
    qa = run(tmp_path, low, t_atm="table").attrs["qa"]
    assert np.abs(qa["baseline_offset_k"]).min() > 1.0
    np.testing.assert_allclose(qa["baseline_offset_model_k"], qa["baseline_offset_k"], rtol=0.05)


def test_the_model_of_the_baseline_leaves_out_what_is_opaque() -> None:
    """Where nothing comes through, 0 / 0 would make the median of all channels none."""

    def model(tau: list[float]) -> Any:
        band = SimpleNamespace(emitted=lambda pwv, x: np.where(np.array(tau) > 1e3, 0.0, pwv * x))
        factors = SimpleNamespace(
            airmass=np.array([1.5]), reference_airmass=np.array([1.2]), tau_signal=np.array(tau),
            bad=np.zeros((len(tau), 1, 2), bool),
        )  # fmt: skip
        gains = SimpleNamespace(image=np.array(0.5), signal=np.array(1.0))
        atmosphere = SimpleNamespace(sky=SimpleNamespace(bands=(band, band)), pwv=2.0)
        sample = SimpleNamespace(on=np.array([0, 0]))
        return baseline_model(sample, factors, SimpleNamespace(gains=gains), atmosphere)  # type: ignore[arg-type]

    expected = 2.0 * (1.5 - 1.2) / np.exp(-1.5 * 0.4) * 1.5  # emission through the transmission, both sidebands
    np.testing.assert_allclose(model([0.4, 0.4, 0.4]), np.full((1, 2), expected), rtol=1e-12)
    np.testing.assert_allclose(model([0.4, 0.4, 1e4]), np.full((1, 2), expected), rtol=1e-12)


def test_single_sideband_with_layers(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE, air=layers)
    out = run(tmp_path, scan, t_atm="table", g_sig=1.0)
    assert np.isnan(out["t_atm_image"][:]).all()
    assert np.isfinite(out["t_atm_signal"][:]).all()
