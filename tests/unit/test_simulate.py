"""The simulator: sizes, determinism, noise, defects, and counts that invert analytically."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from calib_gpu.atm.builtin import builtin_tables
from calib_gpu.errors import BadElevation, ConfigError, OutputError, StoreUnusable
from calib_gpu.simulate import PRESETS, SimulationConfig, closure, expected_spectra, read_truth, simulate, truth_path
from calib_gpu.simulate.model import Model
from calib_gpu.simulate.plan import plan_night
from calib_gpu.store.l0 import L0Store

H_OVER_K = 6.62607015e-34 / 1.380649e-23
SMALL = (256, 6, 2, 2, 8)
INT_MISSING = -(2**31)


def tree(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def planck(nu, t):
    return H_OVER_K * nu / np.expm1(H_OVER_K * nu / t)


class Inverse:
    """Receiver and T_A* from the counts of a scan, written out from the specification with NumPy alone."""

    def __init__(self, path: Path, number: int = 25650, *, t_atm_factor: float = 1.0, t_bg: float = 0.0) -> None:
        root = zarr.open_group(path, mode="r")
        source = root[f"scan_{number:06d}/source"]
        served_by = int(source["lloadsn"][0])
        loads = root[f"scan_{served_by:06d}/calibration"]
        kinds = [str(k) for k in loads["sobsmode"][:]]
        counts = loads["data_5d"][:].astype(np.float64)
        mean = {k: counts[..., i].mean(axis=1) for i, k in enumerate(kinds)}  # [C,R,A]
        self.hot, self.cold, self.zero = mean["HOT"], mean["COLD"], mean.get("ZERO", 0.0)
        n_c = counts.shape[0]
        step = (np.arange(n_c) - source["ref_channel"][0]) * source["freq_res"][0]
        nu = [source["signal_freq"][0] + step, source["image_freq"][0] - step]
        g = [source["gain_sig"][:], source["gain_img"][:]]
        eta_f = float(source["eta_f"][()])
        t_hot, t_cold = float(loads["thot"][0]), float(loads["tcold"][0])
        power_hot, power_cold = (
            sum(gk * planck(f, t)[:, None, None] for f, gk in zip(nu, g, strict=True)) for t in (t_hot, t_cold)
        )
        self.contrast = power_hot - power_cold
        self.trec = (power_hot * (self.cold - self.zero) - power_cold * (self.hot - self.zero)) / (self.hot - self.cold)
        self.gain = (self.hot - self.cold) / self.contrast
        self.gamma = self.contrast / (g[0] * eta_f)
        self.sky = source["data_5d"][:].astype(np.float64)
        self.kinds = [str(k).removeprefix("OTF-") for k in source["sobsmode"][:]]
        self.elevation = source["elevation"][:].astype(np.float64)
        self.g, self.nu, self.eta_f, self.power_hot = g, nu, eta_f, power_hot
        self.t_amb = float(source["tamb"][0])
        self.t_atm, self.t_bg = t_atm_factor * self.t_amb, t_bg
        pascal = float(source["pamb"][0]) * 101325.0 / 760.0
        table = next(t for t in builtin_tables() if t.frequency[0] <= nu[1].min() and nu[0].max() <= t.frequency[-1])
        at_pressure = [
            [np.interp(pascal, table.pressure, column) for column in values.T] for values in (table.b, table.c)
        ]
        self.tau = [tuple(np.interp(f, table.frequency, values) for values in at_pressure) for f in nu]

    def transmission(self, pwv: float, subscan: int) -> list[np.ndarray]:
        x = 1.0 / np.sin(self.elevation[subscan])
        return [np.exp(-x * (b * pwv + c)) for b, c in self.tau]

    def sky_power(self, pwv: float, subscan: int, t_spill: float | None = None) -> np.ndarray:
        spill = self.t_amb if t_spill is None else t_spill
        power = 0.0
        for f, g, t in zip(self.nu, self.g, self.transmission(pwv, subscan), strict=True):
            background = planck(f, self.t_bg) if self.t_bg else 0.0
            one = self.eta_f * (planck(f, self.t_atm) * (1.0 - t) + background * t) + (1.0 - self.eta_f) * planck(
                f, spill
            )
            power = power + g * one[:, None, None]
        return power

    def antenna_temperature(self, subscan: int, pwv: float) -> np.ndarray:
        off = max(i for i in range(subscan) if self.kinds[i] == "OFF")
        ref = self.sky[..., off].mean(axis=1)
        t_s = self.transmission(pwv, subscan)[0][:, None, None]
        return (self.sky[..., subscan] - ref[:, None]) * (self.gamma / ((self.hot - self.cold) * t_s))[:, None]


@pytest.mark.parametrize(("preset", "shape"), PRESETS.items())
def test_preset_shapes(preset, shape):
    scans = plan_night(SimulationConfig(preset))
    sources = [g for scan in scans if scan.role == "science" for g in scan.groups if g.name == "source"]
    assert [g.shape for g in sources] == [shape] * len(sources)
    assert all(g.subscans[0].kind == "OFF" for g in sources)
    assert sources[0].on_index.size == 3 * shape[4] // 4
    assert all(0 < s.n_dump <= shape[1] for s in sources[0].subscans)


def test_presets_are_those_of_the_specification():
    assert PRESETS == {
        "tiny": (1024, 8, 1, 2, 8), "S": (4096, 16, 1, 7, 12), "M": (16384, 40, 1, 7, 27), "L": (16384, 60, 3, 7, 60),
        "XL": (65536, 60, 1, 64, 12),
    }  # fmt: skip
    model = Model.of(SimulationConfig("L"))
    assert model.signal[1] - model.signal[0] == 244140.625
    assert model.signal[8192] == 492.160651e9
    np.testing.assert_allclose(model.signal + model.image, 2 * 486.160651e9, atol=1e-3)


def test_the_night(tmp_path):
    truth = simulate(tmp_path / "night.zarr", SimulationConfig("tiny"))
    assert dict(truth.roles) == {25650: "science", 25651: "loads", 25652: "science", 25653: "science", 25654: "broken"}
    store = L0Store(tmp_path / "night.zarr")
    groups = {s.number: (store.has(s, "source"), store.has(s, "calibration")) for s in store.scan_ids()}
    assert groups == {
        25650: (True, True),
        25651: (False, True),
        25652: (True, False),
        25653: (True, True),
        25654: (True, True),
    }
    for scan in store.scan_ids():
        for name in ("source", "calibration"):
            if store.has(scan, name):
                store.group(scan, name)  # every array passes the reader's rules
    assert set(store.group(store.scan_ids()[2], "source").arrays["lloadsn"]) == {25651}
    assert not store.group(store.scan_ids()[4], "source").of_kind("OFF")
    with pytest.raises(OutputError):
        simulate(tmp_path / "night.zarr", SimulationConfig("tiny"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["night.truth.zarr", "night.zarr"]


def test_same_bytes_for_any_number_of_workers(tmp_path):
    config = SimulationConfig(shape=SMALL, n_scans=2, holes=0.01, saturation=0.01, padding=2, load_spikes=3)
    for name, workers in (("one.zarr", 1), ("two.zarr", 2)):
        simulate(tmp_path / name, config, workers=workers)
    assert tree(tmp_path / "one.zarr") == tree(tmp_path / "two.zarr")
    assert tree(tmp_path / "one.truth.zarr") == tree(tmp_path / "two.truth.zarr")
    simulate(tmp_path / "other.zarr", SimulationConfig(shape=SMALL, n_scans=2, seed=2))
    counts = "scan_025650/source/data_5d/c.0.0.0.0.0"
    assert tree(tmp_path / "one.zarr")[counts] != tree(tmp_path / "other.zarr")[counts]


@pytest.mark.parametrize("mode", ["otf", "tp"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"zero_level": 5e4, "line_shape": "double"},
        {"t_atm_factor": 0.954, "t_spill": 285.0, "t_bg": 2.725},
        {"gain_scatter": 0.0, "g_sig": 1.0},
    ],
    ids=["default", "zero", "temperatures", "single sideband"],
)
def test_counts_invert_to_the_truth(tmp_path, mode, changes):
    config = closure("tiny", shape=SMALL, mode=mode, n_scans=2, **changes)
    out = tmp_path / "closure.zarr"
    simulate(out, config)
    truth = read_truth(out)
    for number in (25650, 25652):
        found = Inverse(out, number, t_atm_factor=config.t_atm_factor, t_bg=config.t_bg)
        np.testing.assert_allclose(found.trec, truth.trec, rtol=1e-9)
        np.testing.assert_allclose(found.gain, truth.gain, rtol=1e-9)
        observed = (found.sky[..., 0].mean(axis=1) - found.hot) / found.gain  # eq. (12)
        modelled = found.sky_power(config.pwv, 0, config.t_spill) - found.power_hot
        np.testing.assert_allclose(observed, modelled, rtol=1e-9)
        peak = 0.0
        for on, subscan in enumerate(truth.scans[number].on_index):
            assert found.kinds[subscan] == "ON"
            spectra = found.antenna_temperature(subscan, config.pwv)
            for r, a in np.ndindex(2, 2):
                expected = expected_spectra(truth, number, on, r, a)
                np.testing.assert_allclose(spectra[:, :, r, a], expected, rtol=1e-9, atol=1e-9)
                peak = max(peak, expected.max())
        assert peak > 0.5 * config.line_peak


def test_continuum_enters_through_both_sidebands(tmp_path):
    config = closure("tiny", shape=SMALL, n_scans=1, mode="tp", line_peak=0.0, continuum=5.0, source_size=1e5)
    truth = simulate(tmp_path / "c.zarr", config)
    t_s, t_i = truth.transmission(25650, 1)
    g_s, g_i = truth.gain_sig[1, 0], truth.gain_img[1, 0]
    expected = expected_spectra(truth, 25650, 0, 1, 0) * (g_s * t_s / (g_s * t_s + g_i * t_i))[:, None]
    np.testing.assert_allclose(expected, 5.0, rtol=1e-2)
    assert np.ptp(t_s / t_i) > 0.01


def test_noise_follows_the_radiometer_equation(tmp_path):
    config = {"shape": (512, 64, 1, 2, 8), "n_scans": 1, "night": False, "zero_level": 2e5, "dump_time": 0.5}
    simulate(tmp_path / "noisy.zarr", SimulationConfig(**config))
    simulate(tmp_path / "exact.zarr", SimulationConfig(**config, noise=False, dtype="float64"))
    for group in ("source", "calibration"):
        counts, exact = (
            zarr.open_array(tmp_path / f"{n}.zarr/scan_025650/{group}/data_5d")[:] for n in ("noisy", "exact")
        )
        assert counts.dtype == np.int32
        assert exact.dtype == np.float64
        sky = exact[..., :2] - 2e5  # OFF and ON, HOT and COLD
        deviation = (counts[..., :2] - exact[..., :2]) / (sky / np.sqrt(4e9 / 512 * 0.5))
        assert np.std(deviation, axis=(0, 1, 2, 3)) == pytest.approx(1.0, abs=0.03)
        assert abs(deviation.mean()) < 5.0 / np.sqrt(deviation.size)
        assert np.corrcoef(deviation[..., 0, 0].ravel(), deviation[..., 1, 1].ravel())[0, 1] == pytest.approx(
            0.0, abs=0.05
        )
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "noisy.zarr/scan_025650/calibration/data_5d")[..., 2], 200000
    )


def test_without_noise_integer_counts_are_rounded(tmp_path):
    for name, dtype in (("i", "int32"), ("f", "float64")):
        simulate(tmp_path / f"{name}.zarr", closure("tiny", shape=SMALL, n_scans=1, dtype=dtype))
    whole, exact = (zarr.open_array(tmp_path / f"{n}.zarr/scan_025650/source/data_5d")[:] for n in "if")
    np.testing.assert_array_equal(whole, np.rint(exact))
    assert 5e5 < np.median(exact) < 2e6
    assert exact.min() > 0


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_defects(tmp_path, dtype):
    config = SimulationConfig(
        shape=SMALL, n_scans=1, night=False, dtype=dtype, padding=2, holes=0.02, saturation=0.01, dead_pixels=1, load_spikes=4,
        noise=False,
    )  # fmt: skip
    truth = simulate(tmp_path / "d.zarr", config)
    scan = zarr.open_group(tmp_path / "d.zarr", mode="r")["scan_025650"]
    source, loads = scan["source"], scan["calibration"]
    counts = source["data_5d"][:]
    missing = np.isnan(counts) if dtype == "float64" else counts == INT_MISSING
    assert dtype == "float64" or source["data_5d"].attrs["fill"] == INT_MISSING
    n_dump = source["n_dump"][:]
    assert sorted(set(n_dump)) == [4, 6]
    padded = np.arange(6)[:, None] >= n_dump
    assert missing[:, padded[:, 1]][..., 1].all()
    assert source["exptime"][1] == 4.0
    present = ~np.broadcast_to(padded[None, :, None, None, :], counts.shape)
    assert missing[present].mean() == pytest.approx(0.02, rel=0.2)
    saturated = counts >= scan.attrs["adc_saturation"]
    assert saturated[present].mean() == pytest.approx(0.01, rel=0.2)
    np.testing.assert_array_equal(truth.dead, [[False, False], [False, True]])
    dead = counts[:, :, 1, 1]
    assert set(np.unique(dead[~missing[:, :, 1, 1]])) == {0, scan.attrs["adc_saturation"]}
    hot, cold = (loads["data_5d"][..., i].mean(axis=1) for i in (0, 1))
    assert np.all(truth.spiked.sum(axis=0) == 4)
    np.testing.assert_array_equal(hot <= cold, truth.spiked | truth.dead)


def test_drifts_are_in_the_counts_and_in_the_truth(tmp_path):
    drifts = {"pwv_drift": 0.2, "gain_drift": 0.1, "elevation_drift": 2.0}
    config = closure("tiny", shape=SMALL, n_scans=1, line_peak=0.0, continuum=0.0, **drifts)
    truth = simulate(tmp_path / "drift.zarr", config)
    of, found = truth.scans[25650], Inverse(tmp_path / "drift.zarr")
    assert np.ptp(of.pwv) == pytest.approx(0.2 * 7 / 8)
    np.testing.assert_allclose(of.airmass, 1.0 / np.sin(found.elevation), rtol=1e-12)
    for s in range(8):
        expected = truth.gain * of.gain_factor[s] * (truth.trec + found.sky_power(of.pwv[s], s))
        np.testing.assert_allclose(found.sky[:, 0, ..., s], expected, rtol=1e-9)


def test_otf_and_total_power_positions(tmp_path):
    for mode in ("otf", "tp"):
        simulate(tmp_path / f"{mode}.zarr", closure("tiny", shape=SMALL, n_scans=1, mode=mode))
    otf, tp = (zarr.open_group(tmp_path / f"{m}.zarr", mode="r")["scan_025650/source"] for m in ("otf", "tp"))
    assert otf["otf_lon"].shape == (6, 8)
    assert tp["otf_lon"].shape == (8,)
    assert list(tp["sobsmode"][:4]) == ["OFF", "ON", "ON", "ON"]
    assert list(otf["sobsmode"][:2]) == ["OTF-OFF", "OTF-ON"]
    on = [s for s in range(8) if s % 4]
    assert len(set(otf["otf_lat"][0, on])) == len(on)
    assert np.ptp(otf["otf_lon"][:, 1]) > 0.0
    assert len(set(tp["otf_lon"][on])) == 1
    assert np.all(np.diff(otf["mjd"][:]) > 0.0)


def test_other_readers_open_the_store(tmp_path):
    simulate(tmp_path / "x.zarr", SimulationConfig(shape=SMALL, n_scans=1))
    root = zarr.open_group(tmp_path / "x.zarr", mode="r")
    assert root.attrs["format"] == "l0-heterodyne"
    assert root["scan_025650/source/data_5d"].metadata.dimension_names == ("C", "D", "R", "A", "S")
    with xarray.open_zarr(tmp_path / "x.zarr", group="scan_025650/source", consolidated=False) as data:
        assert dict(data.data_5d.sizes) == dict(zip("CDRAS", SMALL, strict=True))
        assert data.mjd.dims == ("S",)
        assert str(data.frontend_backends.values[0, 1]) == "SIM0_PX01"
    beside = zarr.open_group(tmp_path / "x.truth.zarr", mode="r")
    assert beside["receiver/trec"].shape == (256, 2, 2)


def test_truth_round_trip(tmp_path):
    written = simulate(tmp_path / "t.zarr", SimulationConfig(shape=SMALL, n_scans=1, line_shape="double"))
    assert truth_path(tmp_path / "t.zarr") == tmp_path / "t.truth.zarr"
    for path in (tmp_path / "t.zarr", str(tmp_path / "t.truth.zarr")):
        read = read_truth(path)
        assert read.config == written.config
        assert read.roles == written.roles
        for name in ("trec", "gain", "gain_sig", "spiked", "line_profile", "b_image"):
            np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        np.testing.assert_array_equal(expected_spectra(read, 25650, 2, 1, 1), expected_spectra(written, 25650, 2, 1, 1))
    (tmp_path / "t.truth.zarr/receiver/trec/c.0.0.0").write_bytes(b"cut")
    for path in (tmp_path / "t.zarr", tmp_path / "nothing.zarr"):
        with pytest.raises(StoreUnusable):
            read_truth(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "huge"}, {"mode": "fsw"}, {"eta_f": 0.0}, {"shape": (8, 4, 1, 1, 1)}, {"t_hot": 20.0}, {"seed": -1},
        {"padding": 8}, {"dead_pixels": 3}, {"pwv": float("nan")}, {"counts": 1e9}, {"holes": 1.5}, {"dump_time": 1e-9},
        {"n_scans": 0},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ConfigError):
        SimulationConfig(**wrong)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"counts": 1e8, "line_peak": 1e5}, ConfigError),
        ({"pwv_drift": -1.0}, ConfigError),
        ({"elevation": 2.0}, BadElevation),
    ],
)
def test_impossible_states_leave_nothing_behind(tmp_path, changes, error):
    with pytest.raises(error):
        simulate(tmp_path / "bad.zarr", SimulationConfig(shape=SMALL, **changes))
    assert not list(tmp_path.iterdir())
