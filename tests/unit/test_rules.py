"""Rules of the specification that are easy to get almost right; each against numbers worked out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import ConfigError, Settings
from calib_gpu.pipeline import calibrate
from calib_gpu.store.l0_write import L0Writer
from small_scan import H_OVER_K, SmallScan, planck, small_scan

SHAPE = (64, 3, 1, 2)


def run(folder: Path, *scans: SmallScan, only: tuple[int, ...] = (), dtype: str = "float64", **options: Any) -> Any:
    store = L0Writer(folder / "l0.zarr", {})
    for scan in scans:
        scan.write(store, dtype, with_source=scan.number not in only)
    return calibrate(folder / "l0.zarr", folder / "l1.zarr", Settings(workers=1, **options))


def l1(folder: Path, number: int = 25650) -> Any:
    return zarr.open_group(str(folder / "l1.zarr"), mode="r")[f"scan_{number:06d}"]


# --- the fit: weights, clip, bins


def test_radiometer_weights_give_the_error_of_eq_16(tmp_path: Path) -> None:
    """sigma_w = (sum W S'^2)^(-1/2) with W of physics 4.4, worked out from truth alone."""
    scan = small_scan(shape=SHAPE)
    run(tmp_path, scan, fit_weights="radiometer")
    out, truth = l1(tmp_path), scan.truth
    nu_s, nu_i = out["frequency_signal"][:], out["frequency_image"][:]
    x, w, t_amb, eta = 1 / np.sin(np.radians(52.0)), truth["pwv"], 270.0, 0.95
    tau_s, tau_i = out["tau_signal"][:], out["tau_image"][:]
    from calib_gpu.atm.builtin import builtin_tables

    table = builtin_tables()[0]
    b_s, b_i = (np.interp(nu, table.frequency, table.b[1]) for nu in (nu_s, nu_i))
    assert scan.loads is not None
    total = 0.0
    for a in range(2):
        g = truth["g_signal"][0, a]
        gain = truth["gain"][:, 0, a]
        off, hot = scan.counts[:, 0, 0, a, 0], scan.loads[:, 0, 0, a, 0]
        slope = x * eta * (
            g * planck(nu_s, t_amb) * b_s * np.exp(-x * tau_s) + (1 - g) * planck(nu_i, t_amb) * b_i * np.exp(-x * tau_i)
        )  # fmt: skip
        bandwidth, t_off, t_hot = 4e9 / SHAPE[0], 9.0, 9.0
        sigma2 = (off**2 / (bandwidth * t_off) + hot**2 / (bandwidth * t_hot)) / gain**2 + (
            0.01 * (off - hot) / gain
        ) ** 2
        total += 2 * (slope**2 / sigma2).sum()  # two OFFs
    assert out.attrs["pwv_mm"] == pytest.approx(w, rel=1e-9)
    assert out.attrs["pwv_err_mm"] == pytest.approx(1 / np.sqrt(total), rel=1e-9)


def test_clip_rejects_what_the_plain_fit_cannot(tmp_path: Path) -> None:
    scan = small_scan(shape=(512, 2, 1, 2))
    scan.counts[100:110, :, :, :, [0, 3]] *= 1.3
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run(tmp_path / "a", scan)
    run(tmp_path / "b", scan, pwv_clip=True)
    assert abs(l1(tmp_path / "a").attrs["pwv_mm"] - 0.6) > 0.005
    assert l1(tmp_path / "b").attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)


@pytest.mark.parametrize("bins", [1, 7, 16, 64, 1000])
def test_bins_average_counts_and_transmission(tmp_path: Path, bins: int) -> None:
    """Mean of exp in the bin: exact for constant gain in the bin; a sawtooth gain leaves only its covariance with the sky."""
    scan = small_scan(shape=SHAPE)
    run(tmp_path, scan, fit_bins=bins, min_points=1)
    assert l1(tmp_path).attrs["pwv_status"] == "ok"
    assert l1(tmp_path).attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9 if bins >= 64 else 0.02)


def test_bins_are_exact_where_the_gain_is_flat(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    flat = 2000.0 / scan.truth["gain"]
    assert scan.loads is not None
    scan.counts *= flat[:, None, :, :, None]
    scan.loads *= flat[:, None, :, :, None]
    run(tmp_path, scan, fit_bins=16)
    # what is left is the covariance of J and t inside a bin of 250 MHz: 5e-4 in J
    assert l1(tmp_path).attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-5)


# --- loads


def test_a_damaged_set_of_another_scan_never_fails_a_good_one(tmp_path: Path) -> None:
    before, science = small_scan(25640, shape=SHAPE, mjd=60000.0 - 0.007), small_scan(shape=SHAPE)
    before.calibration["thot"] = np.full(2, np.nan)
    report = run(tmp_path, before, science, only=(25640,))
    assert report.exit_code == 0
    (line,) = report.scans
    assert any("damaged loads are passed over: scan_025640: calibration/thot" in w for w in line.warnings)
    assert l1(tmp_path).attrs["qa"]["gain_drift"] is None


def test_a_damaged_nearest_set_is_passed_over(tmp_path: Path) -> None:
    good, broken = (
        small_scan(25640, shape=SHAPE, mjd=60000.0 - 0.007),
        small_scan(25641, shape=SHAPE, mjd=60000.0 - 0.004),
    )
    broken.calibration["tcold"] = np.full(2, -1.0)
    science = small_scan(shape=SHAPE)
    science.loads = None
    science.source["lloadsn"] = np.full(5, 25641)
    report = run(tmp_path, good, broken, science, only=(25640, 25641))
    assert report.exit_code == 0
    assert l1(tmp_path).attrs["load_scans"] == [25640]


def test_pixel_names_per_subscan_do_not_tell_tunings_apart(tmp_path: Path) -> None:
    loads, science = small_scan(25640, shape=(64, 3, 1, 1), mjd=60000.0 - 0.004), small_scan(shape=(64, 3, 1, 1))
    science.loads = None
    science.source["frontend_backends"] = np.array(["Hfav_PX00 "] * 5, dtype=object)
    loads.calibration["frontend_backends"] = np.array(["Hfav_PX00 "] * 2, dtype=object)
    assert run(tmp_path, loads, science, only=(25640,)).exit_code == 0
    assert l1(tmp_path)["frontend_backends"][:].tolist() == ["Hfav_PX00 "] * 3  # as in L0


def test_linear_loads_interpolate_temperatures_not_j(tmp_path: Path) -> None:
    sets = [small_scan(25640, shape=SHAPE, mjd=60000.0 - 0.005), small_scan(25660, shape=SHAPE, mjd=60000.0 + 0.005)]
    science = small_scan(shape=SHAPE)
    science.loads = None
    sets[1].calibration["thot"], sets[1].calibration["tcold"] = np.full(2, 325.0), np.full(2, 60.0)
    run(tmp_path, sets[0], science, sets[1], only=(25640, 25660), loads="linear", pwv=0.6)
    out = l1(tmp_path)
    seconds = 86400.0 * (60000.0 + np.array([-0.005, 0.005])) - 45.0
    mean_on = 86400.0 * 60000.0 + 30.0 * np.mean([1, 2, 4])
    share = (mean_on - seconds[0]) / (seconds[1] - seconds[0])
    t_hot, t_cold = (1 - share) * 295.0 + share * 325.0, (1 - share) * 80.0 + share * 60.0
    nu_s, nu_i, g = out["frequency_signal"][:], out["frequency_image"][:], science.truth["g_signal"][0, 0]
    contrast = g * (planck(nu_s, t_hot) - planck(nu_s, t_cold)) + (1 - g) * (planck(nu_i, t_hot) - planck(nu_i, t_cold))
    np.testing.assert_allclose(out["gamma"][:, 0, 0], contrast / (g * 0.95), rtol=1e-10)


def test_the_union_of_bad_channels_can_make_a_pixel_dead(tmp_path: Path) -> None:
    sets = [small_scan(25640, shape=SHAPE, mjd=60000.0 - 0.005), small_scan(25660, shape=SHAPE, mjd=60000.0 + 0.005)]
    for loads, channels in zip(sets, (slice(0, 32), slice(32, 60)), strict=True):
        assert loads.loads is not None
        loads.loads[channels, :, 0, 0, 0] = loads.loads[channels, :, 0, 0, 1]
    science = small_scan(shape=SHAPE)
    science.loads = None
    run(tmp_path, sets[0], science, sets[1], only=(25640, 25660), loads="linear", pwv=0.6)
    assert l1(tmp_path)["bad_channels"][:, 0, 0].all()
    assert not l1(tmp_path)["bad_channels"][:, 0, 1].any()


def test_hot_and_cold_that_are_valid_must_be_near_each_other(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    assert scan.loads is not None
    scan.loads = scan.loads[..., [0, 0, 1]]
    scan.loads[..., 1] = 0.0  # a dead HOT beside the COLD
    for name, values in scan.calibration.items():
        scan.calibration[name] = ["HOT", "HOT", "COLD"] if name == "sobsmode" else np.asarray(values)[[0, 0, 1]]
    scan.calibration["mjd"] = 60000.0 - np.array([500.0, 70.0, 60.0]) / 86400.0
    assert [s.error for s in run(tmp_path, scan).scans] == ["NoLoads"]


def test_a_whole_missing_dump_inside_n_dump_is_a_hole(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    assert scan.loads is not None
    scan.loads[:, 1, :, :, 0] = np.nan
    scan.calibration["n_dump"] = np.full(2, 3)
    run(tmp_path, scan)
    assert l1(tmp_path).attrs["scan_flags"] & 256


def test_a_hole_in_the_zero_level_falls_back_and_leaves_ta(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE, zero=400.0)
    assert scan.loads is not None
    zero = np.full((*scan.loads.shape[:-1], 1), 400.0)
    zero[5] = np.nan
    scan.loads = np.concatenate([scan.loads, zero], axis=-1)
    for name, values in scan.calibration.items():
        scan.calibration[name] = [*values, "ZERO"] if name == "sobsmode" else np.append(values, values[-1])
    run(tmp_path, scan, zero_level=400.0)
    assert not l1(tmp_path)["bad_channels"][:].any()
    np.testing.assert_allclose(l1(tmp_path)["trec"][:], scan.truth["trec"], rtol=1e-9)
    assert l1(tmp_path).attrs["receiver"]["zero"]["from"] == "ZERO subscans of scan_025650/calibration"


# --- frequencies and attributes


@pytest.mark.parametrize(("name", "values"), [
    ("freq_off", [0, 0, 0, 5e8, 5e8]), ("signal_freq", [492e9, 492e9, np.nan, 492e9, 492e9]),
    ("ref_channel", [32, 32, 42, 32, 32]), ("freq_res", [6.25e7, 6.25e7, -6.25e7, 6.25e7, 6.25e7]),
])  # fmt: skip
def test_every_subscan_must_have_the_same_axis(tmp_path: Path, name: str, values: list[float]) -> None:
    scan = small_scan(shape=SHAPE)
    scan.source[name] = np.array(values, float)
    scan.attrs["freq_off_applied"] = False
    assert [s.error for s in run(tmp_path, scan).scans] == ["FrequencyMismatch"]


@pytest.mark.parametrize(("attrs", "word"), [
    ({"freq_off_applied": "false"}, "freq_off_applied"), ({"frequency_frame": "barycentric"}, "frequency_frame"),
    ({"frequency_frame": 5}, "frequency_frame"), ({"adc_saturation": 0}, "adc_saturation"),
    ({"adc_saturation": -5.0}, "adc_saturation"),
    ({"fill": 1.5}, "fill"), ({"ref_channel_base": "one"}, "ref_channel_base"),
], ids=str)  # fmt: skip
def test_bad_attributes_are_named(tmp_path: Path, attrs: dict[str, Any], word: str) -> None:
    scan = small_scan(shape=SHAPE)
    if "fill" in attrs:
        scan.array_attrs = attrs
    scan.attrs |= attrs
    (line,) = run(tmp_path, scan, dtype="int32").scans
    assert (line.error, word in line.message) == ("BadType", True), line.message


def test_lsrk_in_any_case_shifts_the_opacity(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.attrs |= {"frequency_frame": "LSRK", "frame_velocity_m_s": 3e4}
    run(tmp_path, scan, pwv=0.6)
    from calib_gpu.atm.builtin import builtin_tables

    table, nu = builtin_tables()[0], l1(tmp_path)["frequency_signal"][:]
    b, c = (np.interp(nu * (1 - 3e4 / 299_792_458.0), table.frequency, t[1]) for t in (table.b, table.c))
    np.testing.assert_allclose(l1(tmp_path)["tau_signal"][:], 0.6 * b + c, rtol=1e-12)
    assert abs(l1(tmp_path)["tau_signal"][0] - (0.6 * np.interp(nu[0], table.frequency, table.b[1]) + c[0])) > 1e-6


def test_reference_channel_counted_from_one_and_spacing_reversed(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.attrs["ref_channel_base"] = 1
    scan.source["ref_channel"], scan.calibration["ref_channel"] = (np.full(n, 33.0) for n in (5, 2))
    run(tmp_path, scan)
    assert l1(tmp_path)["frequency_signal"][32] == scan.source["signal_freq"][0]
    np.testing.assert_allclose(l1(tmp_path)["spectra"][:], scan.truth["ta"], atol=1e-8)


# --- times and exposures


@pytest.mark.parametrize(("kind", "n_dump", "dump_time"), [
    ("subscan", None, 3.0), ("dump", None, 9.0), ("subscan", 2, 4.5), ("dump", 2, 9.0),
])  # fmt: skip
def test_exposures(tmp_path: Path, kind: str, n_dump: int | None, dump_time: float) -> None:
    scan = small_scan(shape=SHAPE)  # exptime is 9 s, three dumps
    scan.attrs["exptime_kind"] = kind
    if n_dump is not None:
        scan.source["n_dump"] = np.full(5, n_dump)
    run(tmp_path, scan, reference="interp")
    out = l1(tmp_path)
    np.testing.assert_allclose(out["exptime_on"][:], dump_time)
    t_off = dump_time * (n_dump or 3)
    weights = out["ref_weight"][:]
    np.testing.assert_allclose(out["exptime_ref"][:], 1 / (weights**2 / t_off).sum(axis=1))
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3], [1 / 3, 2 / 3], [1, 0]], atol=1e-12)


@pytest.mark.parametrize(("kind", "half"), [("subscan", 4.5), ("dump", 13.5)])
def test_start_times_are_turned_into_mid_times(tmp_path: Path, kind: str, half: float) -> None:
    scan = small_scan(shape=SHAPE)
    scan.attrs |= {"time_ref": "start", "exptime_kind": kind}
    scan.source["exptime"] = np.array([9.0, 9.0, 9.0, 3.0, 9.0])  # the second OFF is shorter: its mid-time is earlier
    scan.source["mjd"] = 60000.0 + np.array([0.0, 30.0, 32.0, 64.0, 90.0]) / 86400.0
    run(tmp_path, scan)
    shift = half - half / 3
    gaps = {2: (32.0, 64.0 - shift - 32.0)}
    expected = 0 if gaps[2][0] <= gaps[2][1] else 3
    assert l1(tmp_path)["ref_index"][1].tolist() == [expected, expected]
    assert expected == 3  # 32 s back, but only 29 or 23 s ahead


# --- total power


def test_total_power_takes_the_first_dump_with_any_valid_channel(tmp_path: Path) -> None:
    scan = small_scan(modes=("OFF", "ON"), shape=SHAPE)
    rng = np.random.default_rng(2)
    scan.counts[..., 0] *= rng.uniform(0.99, 1.01, scan.counts[..., 0].shape)
    scan.counts[:, 0, 0, 0, 0] = np.nan  # pixel 0 has no first dump; pixel 1 has a hole in it
    scan.counts[7, 0, 0, 1, 0] = np.nan
    run(tmp_path, scan, pwv=0.6)
    out = l1(tmp_path)
    k = (
        out["gamma"][:]
        / (scan.loads[:, 0, :, :, 0] - scan.loads[:, 0, :, :, 1])
        / scan.truth["t_signal"][:, None, None]
    )  # type: ignore[index]
    for a, d in ((0, 1), (1, 0)):
        expected = (scan.counts[:, :, 0, a, 1] - scan.counts[:, d, 0, a, 0][:, None]) * k[:, 0, a][:, None]
        np.testing.assert_allclose(out["spectra"][:, :, 0, a, 0], expected, rtol=1e-9, atol=1e-9)
    assert (out["flags"][7, :, 0, 1, 0] == 256).all()
    assert np.isnan(out["t_sys"][7, 0, 1, 0])


# --- sky temperatures, tables, fallbacks


def test_tables_from_a_file_clamp_and_refuse(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    write_table(tmp_path / "table.zarr", pressure=[40_000.0, 50_000.0])
    run(tmp_path, scan, atmosphere=str(tmp_path / "table.zarr"), pwv=0.6)
    out = l1(tmp_path)
    assert out.attrs["scan_flags"] & 16  # 530 hPa lies outside: clamped to the last layer
    np.testing.assert_allclose(out["tau_signal"][:], 0.6 * 0.5 * 1.5 + 0.05, rtol=1e-6)
    with pytest.raises(ConfigError, match="t_eff"):
        calibrate(
            tmp_path / "l0.zarr", tmp_path / "x.zarr", Settings(atmosphere=str(tmp_path / "table.zarr"), t_atm="table")
        )


def write_table(path: Path, pressure: list[float], **more: np.ndarray) -> None:
    """B = 0.5, 0.75, ... per layer, c = 0.05, flat in frequency from 470 to 500 GHz."""
    group = zarr.open_group(str(path), mode="w")
    nu, n = np.linspace(470e9, 500e9, 11), len(pressure)
    arrays = {"frequency_hz": nu, "pressure_pa": np.array(pressure), "b": 0.5 * (1 + 0.5 * np.arange(n))[:, None] * np.ones(11),
              "c": np.full((n, 11), 0.05), **more}  # fmt: skip
    for name, values in arrays.items():
        group.create_array(
            name, data=values.astype("f4" if name in "bc" else "f8"), config={"write_empty_chunks": True}
        )


def test_the_fallback_is_header_then_default(tmp_path: Path) -> None:
    """Opaque or dry tables say nothing about the water: b = 0 leaves the fit unconstrained."""
    write_table(tmp_path / "dry.zarr", [53_000.0], b=np.zeros((1, 11)))
    for k, (attrs, options, expected) in enumerate((
        ({}, {}, (1.0, "default")), ({"pwv_header": 0.8}, {}, (0.8, "header")),
        ({"pwv_header": 0.8}, {"pwv_header": 0.3}, (0.3, "header")),
        ({"pwv_header": -1.0}, {"pwv_default": 2.0}, (2.0, "default")),
    )):  # fmt: skip
        scan = small_scan(shape=SHAPE)
        scan.attrs |= attrs
        (tmp_path / str(k)).mkdir()
        run(tmp_path / str(k), scan, atmosphere=str(tmp_path / "dry.zarr"), pwv_scope="per_pixel", **options)
        a = l1(tmp_path / str(k)).attrs
        assert (a["pwv_mm"], a["pwv_source"], a["pwv_status"]) == (*expected, "unconstrained")
        assert a["pwv_err_mm"] is None
        assert a["scan_flags"] & 2
        assert np.isnan(l1(tmp_path / str(k))["pwv"][:]).all()


def test_single_sideband_needs_no_table_for_the_image(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    write_table(tmp_path / "signal.zarr", [53_000.0])
    for name in ("image_freq",):
        scan.source[name], scan.calibration[name] = scan.source[name] - 400e9, scan.calibration[name] - 400e9
    run(tmp_path, scan, atmosphere=str(tmp_path / "signal.zarr"), g_sig=1.0, pwv=0.6)
    assert np.isnan(l1(tmp_path)["tau_image"][:]).all()
    assert np.isfinite(l1(tmp_path)["tau_signal"][:]).all()


def test_opaque_channels_are_flagged(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    b = np.where(np.arange(11) >= 8, 9.0, 0.5)[None, :]
    write_table(tmp_path / "opaque.zarr", [53_000.0], b=b)
    run(tmp_path, scan, atmosphere=str(tmp_path / "opaque.zarr"), pwv=0.6)
    out = l1(tmp_path)
    t = np.exp(-out["tau_signal"][:] / np.sin(np.radians(52.0)))
    assert (t < 0.01).any()
    np.testing.assert_array_equal(out["flags"][:, 0, 0, 0, 0], np.where(t < 0.01, 1024, 0))
    assert np.isnan(out["t_sys"][:, 0, 0, 0][t < 0.01]).all()


def test_elevation_over_the_zenith(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    for arrays in (scan.source, scan.calibration):
        arrays["elevation"] = np.pi - arrays["elevation"]
    run(tmp_path, scan)
    np.testing.assert_allclose(l1(tmp_path)["airmass"][:], 1 / np.sin(np.radians(52.0)), rtol=1e-12)
    np.testing.assert_allclose(l1(tmp_path)["spectra"][:], scan.truth["ta"], atol=1e-8)


def test_sky_temperatures_of_the_store_win_over_the_default(tmp_path: Path) -> None:
    """A store made at T_atm = T_spill = 270 K whose tamb says 300 K: t_atm and t_spill in L0 bring the truth back."""
    scan = small_scan(shape=SHAPE)
    scan.source["t_atm"], scan.source["t_spill"] = np.full(5, 270.0), np.array([np.nan, 270, 270, 270, 270])
    scan.source["tamb"] = np.full(5, 300.0)
    run(tmp_path, scan)
    out = l1(tmp_path)
    assert out.attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)
    assert out.attrs["receiver"]["t_atm"] == {"value": 270.0, "from": "store"}
    assert not out.attrs["scan_flags"] & 128


def test_no_spillover_needs_no_ambient_temperature(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE, eta_f=1.0)
    del scan.source["tamb"]
    report = run(tmp_path, scan, t_atm=270.0)
    assert report.exit_code == 0
    assert l1(tmp_path).attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)


def test_constants() -> None:
    assert pytest.approx(4.799243073366221e-11, rel=1e-15) == H_OVER_K


# --- the store's own format


def as_v2(source: Path, target: Path) -> None:
    """The same store in Zarr v2, as older writers leave it: axes in _ARRAY_DIMENSIONS, strings by the vlen-utf8 filter."""
    old = zarr.open_group(str(source), mode="r")
    new = zarr.open_group(str(target), mode="w", zarr_format=2)
    new.attrs.update(dict(old.attrs))
    for path, node in old.members(max_depth=None):
        if isinstance(node, zarr.Group):
            new.create_group(path).attrs.update(dict(node.attrs))
            continue
        values = node[...]
        text = values.dtype.kind in "OT"
        chunks = tuple(max(1, n // 2) for n in values.shape) if values.ndim == 5 else values.shape
        array = new.create_array(
            path, shape=values.shape, dtype=str if text else values.dtype, chunks=chunks or (),
            config={"write_empty_chunks": True},
        )  # fmt: skip
        array[...] = values.astype(object) if text else values
        array.attrs.update(dict(node.attrs) | {"_ARRAY_DIMENSIONS": list(node.metadata.dimension_names or ())})


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_a_zarr_v2_store_gives_the_same_numbers(tmp_path: Path) -> None:
    scan = small_scan(shape=(64, 4, 2, 2))
    run(tmp_path, scan, dtype="int32")
    as_v2(tmp_path / "l0.zarr", tmp_path / "v2.zarr")
    assert not list((tmp_path / "v2.zarr").rglob("zarr.json"))
    report = calibrate(tmp_path / "v2.zarr", tmp_path / "l1v2.zarr")
    assert report.exit_code == 0, report.failures
    other = zarr.open_group(str(tmp_path / "l1v2.zarr"), mode="r")["scan_025650"]
    for name, array in l1(tmp_path).arrays():
        np.testing.assert_array_equal(other[name][...], array[...])


# --- found by a second reading


def test_pixels_in_another_order_are_another_tuning(tmp_path: Path) -> None:
    loads, science = small_scan(25640, shape=(64, 3, 1, 2), mjd=60000.0 - 0.004), small_scan(shape=(64, 3, 1, 2))
    loads.calibration["frontend_backends"] = np.array([["PX01", "PX00"]], dtype=object)
    science.loads = None
    assert [s.error for s in run(tmp_path, loads, science, only=(25640,)).scans] == ["NoLoads"]


def test_radiometer_weights_need_exposures(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    del scan.source["exptime"]
    (line,) = run(tmp_path, scan, fit_weights="radiometer").scans
    assert (line.error, "exptime" in line.message) == ("MissingValue", True)
    assert calibrate(tmp_path / "l0.zarr", tmp_path / "unit.zarr").exit_code == 0


def test_the_dump_time_is_that_of_a_hot_with_data(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    assert scan.loads is not None
    scan.loads = scan.loads[..., [0, 0, 1]]
    scan.loads[..., 0] = np.nan
    for name, values in scan.calibration.items():
        scan.calibration[name] = ["HOT", "HOT", "COLD"] if name == "sobsmode" else np.asarray(values)[[0, 0, 1]]
    run(tmp_path, scan, fit_weights="radiometer")
    assert l1(tmp_path).attrs["pwv_status"] == "ok"
    assert l1(tmp_path).attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)


def test_unused_ambient_temperatures_may_be_missing(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE, eta_f=1.0)
    scan.source["tamb"] = np.full(5, np.nan)
    assert run(tmp_path, scan, t_atm=270.0).exit_code == 0
    assert "t_spill" not in l1(tmp_path).attrs["receiver"]  # nothing is spilt: no value is claimed


def test_a_frequency_offset_that_is_no_number_is_named(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.attrs["freq_off_applied"] = False
    scan.source["freq_off"] = np.array([0, 0, np.nan, 0, 0.0])
    (line,) = run(tmp_path, scan).scans
    assert (line.error, "freq_off" in line.message) == ("FrequencyMismatch", True)


def test_numbers_beyond_a_float_are_refused(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.attrs["adc_saturation"] = 10**400
    (line,) = run(tmp_path, scan).scans
    assert (line.error, "adc_saturation" in line.message) == ("BadType", True)


def test_t_eff_is_not_asked_for_where_it_is_not_used(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    scan.source["t_atm"] = np.full(5, 270.0)
    l0 = scan.store(tmp_path / "l0.zarr")
    assert calibrate(l0, tmp_path / "a.zarr", Settings.layered(profile={"t_atm": "table"})).exit_code == 0
    assert calibrate(l0, tmp_path / "b.zarr", Settings(t_atm="table", pwv=0.6)).exit_code == 0


def test_auto_is_the_profiles_table() -> None:
    for config in ({}, {"atmosphere": "c.zarr"}, {"atmosphere": "none"}):
        settings = Settings.layered({"atmosphere": "auto"}, config, {"atmosphere": "p.zarr"})
        assert settings.atmosphere == "p.zarr"
    assert Settings.layered({"atmosphere": "none"}, {}, {"atmosphere": "p.zarr"}).atmosphere == "none"


def test_inspect_shows_a_scan_and_why_its_last_try_failed(tmp_path: Path) -> None:
    from calib_gpu.inspection import inspect_store
    from calib_gpu.records import ScanId

    run(tmp_path, small_scan(shape=SHAPE))
    failures = [{"scan": "scan_025650", "message": "no reason"}, {"scan": "scan_0256501", "message": "another scan"}]
    import json

    (tmp_path / "l1.zarr" / "failures.json").write_text(json.dumps(failures))
    titles = [table.title for table in inspect_store(tmp_path / "l1.zarr", ScanId(25650), Settings())]
    assert titles[-1] == "scan_025650: not calibrated when last tried"
    assert "scan_025650: arrays" in titles
    (tmp_path / "l1.zarr" / "failures.json").write_text("{")
    assert len(inspect_store(tmp_path / "l1.zarr", ScanId(25650), Settings())) == 3
