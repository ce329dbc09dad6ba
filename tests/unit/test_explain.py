"""``calib-gpu explain``: its numbers, redone here by hand from the formulas it prints, are those in L1 to the last digit."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import ConfigError, Settings, calibrate
from calib_gpu.atm.builtin import builtin_tables
from calib_gpu.explain import Explanation, Place, explain, tables
from calib_gpu.explain.reasons import bad_channel_reasons
from calib_gpu.physics.loads import bad_channels
from calib_gpu.records import LoadCalibration, ScanId
from calib_gpu.schema import Flag
from calib_gpu.simulate import SimulationConfig, simulate
from small_scan import small_scan

SCAN = ScanId(25650)
SHAPE = (64, 6, 1, 2, 8)


def j(nu: float, t: float) -> float:
    """J(nu, T), written out anew."""
    x = 6.62607015e-34 / 1.380649e-23 * nu
    return x / math.expm1(x / t)


def by_hand(made: Explanation) -> dict[str, float]:
    """Every step computed from its formula and the steps before it, and held against what is printed."""
    have: dict[str, Any] = {
        "min": min,
        "exp": math.exp,
        "sin": math.sin,
        "J": j,
        "round": round,
        "float32": lambda v: float(np.float32(v)),
    }
    for _, steps in made.parts:
        for step in steps:
            assert step.formula or step.source, step
            if not step.formula:
                have[step.symbol] = step.value
                continue
            value = eval(step.formula, {"__builtins__": {}}, have)
            rounded = any(word in step.formula for word in ("exp", "sin", "J(", "** 0.5"))
            if rounded:
                assert value == pytest.approx(
                    step.value, rel=1e-13
                )  # 1 - exp(-x) of small x, and the libraries' last digit
            elif not math.isnan(step.value) and step.symbol != "T_sys":
                assert value == step.value, step
            have[step.symbol] = step.value
            if step.symbol.startswith("sum_"):
                raise AssertionError("sums are read, not calculated")
    return have


def sums_are_of_the_counts_shown(made: Explanation) -> None:
    for _, steps in made.parts:
        numbers = {step.symbol: step.value for step in steps}
        for step in steps:
            if step.symbol.startswith("sum_"):
                shown = re.sub(
                    r"subscan \d+:|\([^)]*\)", "", step.source.partition(",")[2].partition("; in brackets")[0]
                )
                counts = [float(v) for v in shown.replace(";", " ").split()]
                assert math.fsum(counts) == pytest.approx(step.value, rel=1e-15)
                assert len(counts) == numbers[step.symbol.replace("sum_", "number_")]


def samples(l1: Path, scan: str, flagged: bool, n: int, seed: int = 3) -> list[Place]:
    flags = zarr.open_array(str(l1 / scan / "flags"), mode="r")[:]
    found = np.argwhere((flags != 0) == flagged)
    chosen = np.random.default_rng(seed).permutation(found)[:n]
    return [Place(int(c), int(r), int(a), int(d), int(s)) for c, d, r, a, s in chosen]


def check(l0: Path, l1: Path, settings: Settings, scan: ScanId = SCAN, n: int = 4) -> list[Explanation]:
    """Explain some good and some flagged samples of a scan, by the settings and by those noted in L1."""
    spectra = zarr.open_array(str(l1 / scan.path / "spectra"), mode="r")[:]
    flags = zarr.open_array(str(l1 / scan.path / "flags"), mode="r")[:]
    made = []
    for place in [*samples(l1, scan.path, False, n), *samples(l1, scan.path, True, n)]:
        e = explain(l0, scan, place, settings, None)
        assert e.agrees
        have = by_hand(e)
        sums_are_of_the_counts_shown(e)
        assert e.flags == flags[place.index]
        assert {name for name, _ in e.reasons} == {f.name for f in Flag if flags[place.index] & f}
        assert all(reason for _, reason in e.reasons)
        if flags[place.index]:
            assert math.isnan(e.written)
        else:
            assert have["T_A"] == e.written == float(spectra[place.index])
            t_sys = zarr.open_array(str(l1 / scan.path / "t_sys"), mode="r")[place.c, place.r, place.a, place.s]
            assert have["T_sys"] == t_sys
            assert (have["n_ref"] - have["zero"]) * have["factor_sky"] == pytest.approx(t_sys, rel=1e-15)
        made.append(e)
    return made


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "interpolated": {"reference": "interp", "dtype": "float32"},
    "rounded": {"precision": "auto"},
    "rounded coarsely": {"precision": 2, "dtype": "float32", "loads": "linear", "max_load_gap": 36000.0},
    "linear loads": {"loads": "linear", "max_load_gap": 36000.0},
    "previous loads": {"loads": "previous"},
    "total power": {"mode": "tp"},
    "total power, mean": {"mode": "tp", "tp_ref": "mean"},
    "couplings": {"eta_h": 0.97, "eta_c": 0.98, "eta_f": 0.9, "g_sig": 0.45},
    "shell": {"airmass": "shell", "t_min": 0.45},
    "mean airmass": {"airmass_mode": "scan_mean", "pwv": 0.7},
    "dry opacity": {"dry_scale": "fit", "fit_windows": "490:493"},
    "layers": {"t_atm": "table", "dry_scale": 0.9},
    "no atmosphere": {"atmosphere": "none", "edge_fraction": 0.1},
    "single sideband": {"g_sig": 1.0},
}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drifts, holes, saturation, spoilt and dead channels, padding, a ZERO subscan; four scans, one with loads only."""
    path = tmp_path_factory.mktemp("night") / "l0.zarr"
    simulate(
        path,
        SimulationConfig(
            shape=SHAPE, n_scans=3, night=True, broken=False, zero_level=1000.0, gain_drift=0.01, elevation_drift=3.0,
            pwv_drift=0.01, load_spikes=4, padding=2, holes=0.03, saturation=0.02, seed=5,
        ),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("name", SETTINGS)
def test_every_number_can_be_had_by_hand(night: Path, tmp_path: Path, name: str) -> None:
    settings = Settings(**SETTINGS[name])
    scan = ScanId(25652)
    calibrate(night, tmp_path / "l1.zarr", settings, scans=[scan.number])
    made = check(night, tmp_path / "l1.zarr", settings, scan)
    symbols = {step.symbol for _, steps in made[0].parts for step in steps}
    assert ("u" in symbols) == (SETTINGS[name].get("loads") == "linear")
    assert ("w_2" in {s.symbol for e in made for _, steps in e.parts for s in steps}) == (name == "interpolated")
    assert ("X" in symbols) == (name != "no atmosphere")
    for e in made[:1] + made[-1:]:  # the settings that L1 notes are enough
        again = explain(night, scan, e.place, Settings(), tmp_path / "l1.zarr")
        assert again.agrees
        assert again.parts == e.parts or e.flags  # NaN is not equal to itself
        assert again.l1 is not None


def test_every_flag_has_its_reason(night: Path, tmp_path: Path) -> None:
    settings = Settings(t_min=0.3)
    calibrate(night, tmp_path / "l1.zarr", settings, scans=[25650])
    flags = zarr.open_array(str(tmp_path / "l1.zarr" / "scan_025650" / "flags"), mode="r")[:]
    told = {}
    for flag in Flag:
        where = np.argwhere(flags == flag)
        if len(where):
            c, d, r, a, s = map(int, where[0])
            e = explain(night, SCAN, Place(c, r, a, d, s), settings, tmp_path / "l1.zarr")
            assert e.agrees
            (told[flag],) = (reason for name, reason in e.reasons if name == flag.name)
    assert "HOT" in told[Flag.BAD_CHANNEL]
    assert "COLD" in told[Flag.BAD_CHANNEL]
    assert re.search(r"padding|fill value -2147483648", told[Flag.FILL_VALUE])
    assert "8001000 >= adc_saturation 8001000" in told[Flag.INVALID_COUNT]


def test_no_reference_and_opaque(tmp_path: Path) -> None:
    scan = small_scan(shape=(32, 2, 1, 2))
    scan.counts[7, :, 0, 1, 3] = np.nan  # the second OFF has no valid dump in channel 7 of pixel 1
    l0 = scan.store(tmp_path / "l0.zarr")
    calibrate(l0, tmp_path / "l1.zarr", Settings(t_min=0.6))
    e = explain(l0, SCAN, Place(7, 0, 1, 0, 2), Settings(t_min=0.6), tmp_path / "l1.zarr")
    assert e.agrees
    assert dict(e.reasons)["NO_REFERENCE"] == "no valid dump in OFF subscan 3"
    assert re.fullmatch(r"t_s = 0\.\d+ < t_min = 0\.6", dict(e.reasons)["OPAQUE"])
    assert math.isnan(e.value)


def test_reasons_of_bad_channels_are_those_of_the_rules() -> None:
    """A channel has a reason if and only if the rules make it bad, whatever is wrong with the loads."""
    rng = np.random.default_rng(8)
    settings = Settings(edge_fraction=0.05)
    for saturation in (None, 9e5):
        cold = rng.normal(4e5, 2e4, 200)
        hot = cold + rng.normal(4e5, 1e5, 200)
        hot[20:24], cold[30:33], hot[40:44], cold[50] = [np.nan, -1.0, 0.0, np.inf], [np.nan, 0.0, -3.0], 1e3, 9.5e5
        hot[60:63] = cold[60:63] + np.array([0.0, -1.0, 20.0])
        trec = rng.normal(100.0, 5.0, 200)
        trec[70:73] = [-1.0, 0.0, 1e4]
        limits = {
            name: getattr(settings, name) for name in ("clip_counts", "clip_trec", "smooth_width", "edge_fraction")
        }
        bad = bad_channels(hot, cold, trec / 0.5, **limits, saturation=saturation)
        assert 20 < np.count_nonzero(bad) < 180
        column = lambda v: v[:, None, None]  # noqa: E731
        cal = LoadCalibration(*map(column, (hot, cold, trec, trec, trec, bad)), 0.0)
        for c in range(200):
            assert bool(bad_channel_reasons(cal, np.array(0.5), c, 0, 0, settings, saturation)) == bad[c], c


def test_a_changed_l1_is_seen(night: Path, tmp_path: Path) -> None:
    calibrate(night, tmp_path / "l1.zarr", scans=[25650])
    array = zarr.open_array(str(tmp_path / "l1.zarr" / "scan_025650" / "spectra"), mode="r+")
    (place,) = samples(tmp_path / "l1.zarr", "scan_025650", False, 1)
    value = array[place.index]
    array[place.index] = np.nextafter(value, np.inf)  # the last digit
    e = explain(night, SCAN, place, Settings(), tmp_path / "l1.zarr")
    assert not e.agrees
    assert e.written == value


def test_other_settings_than_those_of_l1_are_not_taken(night: Path, tmp_path: Path) -> None:
    calibrate(night, tmp_path / "l1.zarr", Settings(eta_f=0.8), scans=[25650])
    assert explain(night, SCAN, Place(9, 0, 0, 0, 1), Settings(), tmp_path / "l1.zarr").agrees
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main()"]
    call += ["explain", str(night), "25650", "9", "0", "0", "0", "1"]
    done = subprocess.run([*call, "--l1", str(tmp_path / "l1.zarr")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "L1 holds the same, to the last digit." in done.stdout
    assert "= (n_on - n_ref) * factor_sky" in done.stdout
    both = [*call, "--l1", str(tmp_path / "l1.zarr"), "--set", "eta_f=0.9"]
    done = subprocess.run(both, capture_output=True, text=True, check=False)
    assert (done.returncode, "two sources of settings" in done.stderr) == (64, True)


def test_an_opacity_table_of_the_users_own(tmp_path: Path) -> None:
    """L1 knows the name of its table, not its path."""
    table = builtin_tables()[0]
    group = zarr.open_group(str(tmp_path / "site" / "table.zarr"), mode="w")
    for name, values in (
        ("frequency_hz", table.frequency),
        ("pressure_pa", table.pressure),
        ("b", 1.1 * table.b),
        ("c", table.c),
    ):
        group.create_array(name, data=values)
    l0 = small_scan(shape=(32, 2, 1, 1)).store(tmp_path / "l0.zarr")
    settings = Settings(atmosphere=str(tmp_path / "site" / "table.zarr"))
    calibrate(l0, tmp_path / "l1.zarr", settings)
    e = explain(l0, SCAN, Place(9, 0, 0, 0, 1), settings, tmp_path / "l1.zarr")
    assert e.agrees
    assert by_hand(e)["b"] == pytest.approx(1.1 * np.interp(by_hand(e)["nu_s"], table.frequency, table.b[1]), rel=1e-3)
    with pytest.raises(ConfigError, match="--atmosphere"):
        explain(l0, SCAN, Place(9, 0, 0, 0, 1), Settings(), tmp_path / "l1.zarr")


def test_settings_of_another_version_are_refused(night: Path, tmp_path: Path) -> None:
    calibrate(night, tmp_path / "l1.zarr", scans=[25650])
    document = tmp_path / "l1.zarr" / "scan_025650" / "zarr.json"
    data = json.loads(document.read_bytes())
    data["attributes"]["settings_digest"] = "0" * 64
    document.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="not understood"):
        explain(night, SCAN, Place(9, 0, 0, 0, 1), Settings(), tmp_path / "l1.zarr")


@pytest.mark.parametrize(
    ("scan", "place", "word"),
    [
        (ScanId(25650), Place(64, 0, 0, 0, 0), "0 to 63"),
        (ScanId(25650), Place(0, 0, 0, 0, 6), "ON subscans"),
        (ScanId(25650), Place(0, 0, -1, 0, 0), "0 to 1"),
        (ScanId(1), Place(0, 0, 0, 0, 0), "not in the store"),
        (ScanId(25651), Place(0, 0, 0, 0, 0), "no ON"),
    ],
    ids=str,
)
def test_samples_that_are_not_there(night: Path, scan: ScanId, place: Place, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        explain(night, scan, place, Settings())


def test_tables_show_every_step(night: Path, tmp_path: Path) -> None:
    calibrate(night, tmp_path / "l1.zarr", scans=[25650])
    (bad,) = samples(tmp_path / "l1.zarr", "scan_025650", True, 1)
    for place in (Place(9, 0, 0, 0, 1), bad):
        e = explain(night, SCAN, place, Settings())
        shown = [row for table in tables(e) for row in table.rows]
        for _, steps in e.parts:
            for step in steps:
                assert any(row[:2] == (step.symbol, repr(step.value)) for row in shown)
        notes = " ".join(note for table in tables(e) for note in table.notes)
        assert ("so that NaN is written" in notes) == (place == bad)
