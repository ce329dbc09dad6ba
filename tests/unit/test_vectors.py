"""The specification's test vectors, each at its own tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends import NAMES, make_backend
from calib_gpu.modes import pair_interp, pair_nearest
from calib_gpu.physics import loads
from calib_gpu.physics.atmosphere import PASCAL_PER_TORR, airmass, transmission
from calib_gpu.physics.calibration import SampleRule, factor, system_temperature
from calib_gpu.physics.frequency import frequency_axes
from calib_gpu.physics.pwv import PwvFit, PwvLimits, fit_pwv
from calib_gpu.physics.radiation import H_OVER_K, rayleigh_jeans_temperature
from calib_gpu.physics.sky import Sky, SkyModel, Slab
from calib_gpu.physics.sky_sums import SkySums
from calib_gpu.records import Loads, LoadSet, ScanId, pixel_major

TESTED = {"V01", "V02", "V05", "V06", "V10", "V12", "V13", "V16", "V18", "V19", "V22", "V30", "V34"}


def test_every_vector_has_a_test(vectors: dict[str, Any]) -> None:
    assert set(vectors) == TESTED


def test_v01_v02_planck(vectors: dict[str, Any]) -> None:
    v = vectors["V01"]
    nu, t = np.array(v["input"]["nu_hz"])[:, None], np.array(v["input"]["T_k"])[None, :]
    np.testing.assert_allclose(rayleigh_jeans_temperature(nu, t), v["expected"]["J_k"], rtol=v["rtol"])
    assert v["expected"]["h_over_k_K_per_Hz"] == pytest.approx(H_OVER_K, rel=v["rtol"])
    v = vectors["V02"]
    nu, t = np.array(v["input"]["cases"]).T
    np.testing.assert_allclose(rayleigh_jeans_temperature(nu, t), v["expected"]["J_k"], rtol=v["rtol"])


def test_v05_frequency_axes(vectors: dict[str, Any]) -> None:
    v, e = vectors["V05"]["input"], vectors["V05"]["expected"]
    signal, image = frequency_axes(v["nu0_sig_hz"], v["nu0_img_hz"], v["dnu_hz"], v["c_ref"], 16384)
    np.testing.assert_allclose(signal[v["channels"]], e["nu_sig_hz"], rtol=1e-15)
    np.testing.assert_allclose(image[v["channels"]], e["nu_img_hz"], rtol=1e-15)
    np.testing.assert_allclose(signal + image, e["sum_hz"], rtol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_v06_loads(vectors: dict[str, Any], name: str) -> None:
    v, e, rtol = vectors["V06"]["input"], vectors["V06"]["expected"], vectors["V06"]["rtol"]
    signal, image = np.array([v["nu_sig_hz"]]), np.array([v["nu_img_hz"]])
    gains = loads.gains_from_weights(v["w_sig"], v["w_img"])
    assert (float(gains.signal), float(gains.image)) == (e["g_sig"], e["g_img"])
    powers = loads.load_powers(signal, image, v["T_hot_k"], v["T_cold_k"], v["eta_h"], v["eta_c"])
    contrast = loads.load_contrast(powers, gains.signal, gains.image)
    np.testing.assert_allclose(contrast, e["dTp_k"], rtol=rtol)
    hot, cold = np.array([float(v["C_hot"])]), np.array([float(v["C_cold"])])
    gain, gamma, trec, _ = make_backend(name).load_calibration(
        hot, cold, v["C_zero"], powers, gains.signal, gains.image, v["eta_f"], _rule()
    )
    np.testing.assert_allclose(gain, e["gain_counts_per_k"], rtol=rtol)
    np.testing.assert_allclose(gamma, e["gamma_k"], rtol=rtol)
    np.testing.assert_allclose(factor(gamma, hot, cold), e["gamma_over_dC_k_per_count"], rtol=rtol)
    np.testing.assert_allclose(trec, e["Trec_dsb_k"], rtol=rtol)
    np.testing.assert_allclose(trec / gains.signal, e["Trec_ssb_k"], rtol=rtol)
    shift = loads.callen_welton_shift(signal, image, gains.signal, gains.image)
    np.testing.assert_allclose(trec - shift, e["Trec_dsb_callen_welton_k"], rtol=rtol)


def _rule() -> Any:
    from calib_gpu.backend.base import BadChannelRule

    return BadChannelRule(0.01, 5.0, 33, 0.0, None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.float64])
def test_v10_antenna_temperature(vectors: dict[str, Any], name: str, dtype: type) -> None:
    v, e, rtol = vectors["V10"]["input"], vectors["V10"]["expected"], vectors["V10"]["rtol"]
    gains = loads.gains_from_weights(v["w_sig"], v["w_img"])
    powers = loads.load_powers(np.array([v["nu_sig_hz"]]), np.array([v["nu_img_hz"]]), v["T_hot_k"], v["T_cold_k"])
    gamma = loads.gamma(powers, gains.signal, gains.image, v["eta_f"])
    np.testing.assert_allclose(gamma, e["gamma_k"], rtol=rtol)
    k = factor(gamma, np.float64(v["C_hot"]), np.float64(v["C_cold"]))
    np.testing.assert_allclose(k / v["t_r_sig"], e["factor_k_per_count"], rtol=rtol)
    on, ref, t = np.array(v["C_on"], dtype), np.array(v["C_ref"], float), np.float64(v["t_r_sig"])
    np.testing.assert_allclose((on.astype(float) - ref) * (k / t), e["TA_k"], rtol=rtol)
    np.testing.assert_allclose(system_temperature(ref, float(v["C_zero"]), k / t), e["t_sys_ssb_TA_k"], rtol=rtol)
    # the tile kernel: the five samples as five channels of one dump; a count of 0 is flagged besides
    out, flags = np.empty((1, 1, 5, 1)), np.empty((1, 1, 5, 1), np.uint16)
    make_backend(name).calibrate_tile(
        on.reshape(1, 1, 5, 1), ref.reshape(1, 1, 5), np.broadcast_to(k / t, (1, 1, 5)), np.zeros((1, 1, 5), np.uint16),
        np.zeros((1, 1)), SampleRule(None, None), 1, out[:, :, None], flags[:, :, None],
    )  # fmt: skip
    np.testing.assert_allclose(out.ravel()[:4], e["TA_k"][:4], rtol=rtol)
    assert np.isnan(out.ravel()[4])
    assert flags.ravel().tolist() == [0, 0, 0, 0, 512]


def test_v12_airmass(vectors: dict[str, Any]) -> None:
    rtol = vectors["V12"]["rtol"]
    for row in vectors["V12"]["expected"]["table"]:
        e = np.radians(row["el_deg"])
        np.testing.assert_allclose(airmass(e), row["plane_parallel"], rtol=rtol)
        np.testing.assert_allclose(airmass(e, "shell", 4.0), row["shell_4km"], rtol=rtol)
        np.testing.assert_allclose(airmass(e, "shell", 5.5), row["shell_5p5km"], rtol=rtol)


def _sky(v: dict[str, Any], wet: float = 1.0) -> tuple[Sky, SkyModel, np.ndarray]:
    n = v["n_chan"]
    axes = frequency_axes(v["nu0_sig_hz"], v["nu0_img_hz"], v["dnu_hz"], 0.0, n)
    gains = loads.gains_from_weights(v["w_sig"], v["w_img"])
    powers = loads.load_powers(*axes, v["T_hot_k"], 77.0, v["eta_h"], 1.0)
    j = rayleigh_jeans_temperature
    bands = tuple(
        Slab(wet * np.array(v[f"b_{band}"]), np.array(v[f"c_{band}"]), j(nu, v["T_atm_k"]), j(nu, v["T_bg_k"]))
        for band, nu in zip(("sig", "img"), axes, strict=True)
    )
    sky = Sky(bands, tuple(j(nu, v["T_spill_k"]) for nu in axes))
    model = sky.model(powers, gains.signal, gains.image, v["eta_f"])
    return sky, model, airmass([np.radians(v["elevation_deg"])])


def _fit(name: str, v: dict[str, Any], observed: list[float], bounds: list[float], wet: float = 1.0) -> PwvFit:
    sky, model, x = _sky(v, wet)
    sums = SkySums.of_pixel(np.array([observed]), model, np.ones((1, len(observed)), bool))
    return fit_pwv(sums, sky, x, PwvLimits(bounds[0], bounds[1], 1), make_backend(name).pwv_grid)


@pytest.mark.parametrize("name", NAMES)
def test_v13_pwv(vectors: dict[str, Any], name: str) -> None:
    v, e, rtol = vectors["V13"]["input"], vectors["V13"]["expected"], vectors["V13"]["rtol"]
    fit = _fit(name, v, v["S_H_obs_k"], v["bounds_mm"])
    assert fit.status == e["status"]
    assert fit.pwv == pytest.approx(e["pwv_mm"], rel=rtol)
    _, _, x = _sky(v)
    tau_s, tau_i = (np.array(v[f"b_{k}"]) * e["pwv_mm"] + np.array(v[f"c_{k}"]) for k in ("sig", "img"))
    np.testing.assert_allclose(tau_s, e["tau_zenith_sig"], rtol=rtol)
    np.testing.assert_allclose(transmission(tau_s, x), e["t_r_sig"], rtol=rtol)
    np.testing.assert_allclose(transmission(tau_i, x), e["t_r_img"], rtol=rtol)


@pytest.mark.parametrize("name", NAMES)
def test_v16_bounds_and_degenerate(vectors: dict[str, Any], name: str) -> None:
    v, e = vectors["V16"]["input"], vectors["V16"]["expected"]
    for case in ("high", "low"):
        fit = _fit(name, v, v[case]["S_H_obs_k"], v[case]["bounds_mm"])
        assert (fit.status, fit.pwv) == (e[case]["status"], pytest.approx(e[case]["pwv_mm"], rel=1e-12))
    assert _fit(name, v, v["opaque"]["S_H_obs_k"], v["opaque"]["bounds_mm"]).status == e["opaque"]["status"]
    assert _fit(name, v, v["high"]["S_H_obs_k"], [0.01, 10.0], wet=0.0).status == e["zero_b"]["status"]


def test_v18_pairing(vectors: dict[str, Any]) -> None:
    v, e = vectors["V18"]["input"], vectors["V18"]["expected"]
    times = [round(t * 1e6) for t in v["t_s"]]
    on = [i for i, mode in enumerate(v["sobsmode"]) if mode == "ON"]
    off = [i for i, mode in enumerate(v["sobsmode"]) if mode == "OFF"]
    assert on == e["on_index"]
    refs, weights = pair_nearest([times[i] for i in on], [times[i] for i in off])
    assert [off[r[0]] for r in refs] == e["nearest_off_index"]
    assert weights == [(1.0, 0.0)] * 5
    refs, weights = pair_interp([times[i] for i in on], [times[i] for i in off])
    assert [[off[a], off[b]] for a, b in refs] == e["bracket"]
    np.testing.assert_allclose([w[1] for w in weights], e["weight_of_later"], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_v19_dump_mean(vectors: dict[str, Any], name: str) -> None:
    v, e = vectors["V19"]["input"], vectors["V19"]["expected"]
    counts = np.array(v["counts"], np.int32).reshape(1, 1, 3, 4)
    stats = make_backend(name).dump_mean(counts, SampleRule(v["fill"], None), 4)
    expected = np.array([np.nan if m is None else m for m in e["mean"]])
    np.testing.assert_allclose(stats.mean()[:, 0, 0], expected, rtol=1e-12)
    assert stats.valid[:, 0, 0].tolist() == e["n"]


def test_v22_linear_loads(vectors: dict[str, Any]) -> None:
    v, e = vectors["V22"]["input"], vectors["V22"]["expected"]
    sets = tuple(_load_set(v[f"t{k}_s"] * 1e6, v["C_hot"][k - 1], v["C_cold"][k - 1]) for k in (1, 2))
    weights = [Loads(sets, 0.0).weight(t * 1e6) for t in v["t_s"]]
    for name in ("C_hot", "C_cold"):
        first, second = v[name]
        np.testing.assert_allclose([(1 - w) * first + w * second for w in weights], e[name], rtol=1e-12)


def _load_set(time_us: float, hot: float, cold: float) -> LoadSet:
    one = pixel_major((1, 1, 1))
    return LoadSet(ScanId(1), time_us, one + hot, one + cold, None, None, 300.0, 77.0, None, one, 1.0, False)


def test_v30_bad_channels(vectors: dict[str, Any]) -> None:
    v, e = vectors["V30"]["input"], vectors["V30"]["expected"]
    hot, cold = np.array(v["C_hot"]), np.array(v["C_cold"])
    assert np.nanmax(loads.running_mean(hot - cold, v["smooth"])) == pytest.approx(e["max_smoothed"], rel=1e-12)
    assert (hot <= cold).tolist() == e["rule1"]
    bad = loads.bad_channels(
        hot, cold, np.full(9, 100.0), clip_counts=v["clip_counts"], clip_trec=5.0, smooth_width=v["smooth"],
        edge_fraction=0.0, saturation=None,
    )  # fmt: skip
    assert bad.tolist() == e["bad"]


def test_v34_units(vectors: dict[str, Any]) -> None:
    v, e = vectors["V34"]["input"], vectors["V34"]["expected"]
    np.testing.assert_allclose(np.array(v["torr"]) * PASCAL_PER_TORR, e["pa"], rtol=1e-12)
    assert v["cat_pa"] / PASCAL_PER_TORR == pytest.approx(e["torr_of_pa"], rel=1e-12)
