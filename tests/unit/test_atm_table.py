"""Opacity tables: the container, its look-up, the tables of the package and how one of them is chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from calib_gpu.atm.builtin import TABLES, builtin_table, builtin_tables, find_builtin, given_table, table_folder
from calib_gpu.atm.files import read_table, rounded, write_table
from calib_gpu.atm.sites import read_site, shipped_sites
from calib_gpu.atm.table import OpacityTable
from calib_gpu.errors import AtmRange, ConfigError, OutputError
from calib_gpu.pipeline import calibrate
from calib_gpu.settings import Settings
from small_scan import planck, small_scan

NU = np.linspace(470e9, 500e9, 301)


def make(**changes: object) -> OpacityTable:
    values = {
        "frequency": NU, "pressure": np.array([51_000.0, 55_000.0]), "b": np.array([0.8, 1.0])[:, None] + 1e-3 * np.sin(NU / 1e9),
        "c": np.array([0.05, 0.07])[:, None] * np.ones(301), "name": "made",
        "t_eff": np.broadcast_to(np.array([[[250.0, 251.0, 254.0], [255.0, 256.0, 258.0]]])[..., None], (2, 2, 3, 301)),
        "pwv": np.array([0.2, 0.9]), "airmass": np.array([1.0, 1.5, 3.0]),
    }  # fmt: skip
    return OpacityTable(**(values | changes))  # type: ignore[arg-type]


def test_written_and_read_again(tmp_path: Path) -> None:
    table = make(attrs={"pwv_fit_mm": [0.2, 0.9]})
    write_table(tmp_path / "a.table", table)
    back = read_table(tmp_path / "a.table")
    assert back.attrs["pwv_fit_mm"] == [0.2, 0.9]
    for name, atol in (
        ("frequency", 0),
        ("pressure", 0),
        ("pwv", 0),
        ("airmass", 0),
        ("b", 6.2e-5),
        ("c", 2e-5),
        ("t_eff", 0.016),
    ):
        np.testing.assert_allclose(getattr(back, name), getattr(table, name), rtol=0, atol=atol)
    group = zarr.open_group(str(tmp_path / "a.table"), mode="r")
    np.testing.assert_array_equal(group["t_eff"][:], back.t_eff)
    assert group["b"].metadata.dimension_names == ("layer", "frequency")
    assert group["b"].attrs["units"] == "Np/mm"
    with pytest.raises(OutputError, match="exists"):
        write_table(tmp_path / "a.table", table)


def test_rounding_is_finer_than_what_matters() -> None:
    values = np.array([-3e-5, 0.0, 1e-4, 0.0647, 0.9, 1234.5])
    error = np.abs(rounded(values, 2.0**-15) - values)
    assert np.all(error <= np.maximum(2.0**-16, np.abs(values) * 2.0**-14))


def test_lookup_is_linear_in_frequency_and_pressure() -> None:
    table = make()
    nu = np.array([470e9, 480.0123e9, 499.99999e9, 500e9])
    got = table.opacity(nu, nu[::-1].copy(), 52_000.0)
    want = [0.75 * np.interp(nu, NU, v[0]) + 0.25 * np.interp(nu, NU, v[1]) for v in (table.b, table.c)]
    np.testing.assert_allclose(got.b_signal, want[0], rtol=1e-12)
    np.testing.assert_allclose(got.c_signal, want[1], rtol=1e-12)
    np.testing.assert_allclose(got.b_image, want[0][::-1], rtol=1e-12)
    assert not got.clamped
    assert table.opacity(nu, None, 60_000.0).clamped
    np.testing.assert_allclose(table.opacity(nu, None, 60_000.0).c_signal, 0.07)
    with pytest.raises(AtmRange, match="outside the opacity table"):
        table.opacity(nu + 1e6, None, 52_000.0)
    with pytest.raises(AtmRange):
        table.emission(nu - 1e6, 52_000.0)


@pytest.mark.parametrize("n", [1, 50, 4000])
@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
def test_lookup_whatever_the_order_of_the_channels(n: int, order: str) -> None:
    """Frequencies on nodes, between them and twice; a table whose step is not even; more channels than nodes, and fewer."""
    rng = np.random.default_rng(n)
    nu = np.unique(np.concatenate([NU, NU[100] + np.arange(8) * 1e6]))
    b = rng.uniform(0.5, 1.5, (1, nu.size))
    table = make(
        frequency=nu, pressure=np.array([53_000.0]), b=b, c=0.1 * b, t_eff=None, pwv=np.empty(0), airmass=np.empty(0)
    )
    axis = np.sort(np.concatenate([rng.uniform(475e9, 485e9, n), nu[95:115], nu[95:97]]))
    axis = {"rising": axis, "falling": axis[::-1].copy(), "mixed": rng.permutation(axis)}[order]
    got = table.opacity(axis, None, None)
    np.testing.assert_allclose(got.b_signal, np.interp(axis, nu, b[0]), rtol=1e-12)
    np.testing.assert_allclose(got.c_signal, 0.1 * np.interp(axis, nu, b[0]), rtol=1e-12)


def test_emission_at_a_node_is_that_of_its_temperature() -> None:
    table, nu = make(), np.array([475e9, 480.05e9, 499e9])
    for pressure, layer in ((51_000.0, 0), (55_000.0, 1)):
        emission, opacity = table.emission(nu, pressure), table.opacity(nu, None, pressure)
        for i, w in enumerate(table.pwv):
            for k, x in enumerate(table.airmass):
                t = np.exp(-x * (opacity.b_signal * w + opacity.c_signal))
                assert table.t_eff is not None
                want = planck(nu, table.t_eff[layer, i, k, 0]) * (1.0 - t)
                np.testing.assert_allclose(emission.at(opacity.b_signal, opacity.c_signal, w, x)[0], want, rtol=2e-5)


def test_one_temperature_for_all_is_still_read(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "old.zarr"), mode="w")
    arrays = {"frequency_hz": NU, "pressure_pa": np.array([53_000.0]), "b": np.full((1, 301), 0.8, "f4"),
              "c": np.full((1, 301), 0.05, "f4"), "t_eff": np.linspace(240.0, 250.0, 301, dtype="f4")[None]}  # fmt: skip
    for name, values in arrays.items():
        group.create_array(name, data=values)
    table, nu = read_table(tmp_path / "old.zarr"), np.array([470e9, 485e9])
    t = np.exp(-1.3 * 0.85)
    value = table.emission(nu, None).at(np.full(2, 0.8), np.full(2, 0.05), 1.0, 1.3)[0]
    np.testing.assert_allclose(
        value, [planck(n, t_eff) * (1 - t) for n, t_eff in zip(nu, (240, 245), strict=True)], rtol=1e-6
    )


@pytest.mark.parametrize(("changes", "word"), [
    ({"b": np.ones((1, 301))}, "shapes"), ({"t_eff": np.ones((2, 2, 301))}, "t_eff"),
    ({"t_eff": np.ones((2, 301))}, "t_eff"), ({"pwv": np.array([0.9, 0.2])}, "increasing"),
    ({"pressure": np.array([55_000.0, 51_000.0])}, "increasing"), ({"c": np.full((2, 301), np.nan)}, "not numbers"),
    ({"pwv": np.array([0.1, 0.2, 0.3]), "t_eff": np.ones((2, 3, 3, 301))}, "t_eff"),
])  # fmt: skip
def test_wrong_tables_are_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make(**changes)


# --- the tables of the package


def test_all_tables_are_there_and_say_where_they_are_from() -> None:
    folders = {p.name for p in table_folder().iterdir() if p.is_dir()}
    assert folders == {t.name.removeprefix("builtin:") for t in builtin_tables()}
    for (site, low, high), table in zip(TABLES, builtin_tables(), strict=True):
        assert (table.frequency[0], table.frequency[-1]) == (low * 1e9, high * 1e9)
        steps = np.diff(table.frequency) / 2e6
        assert set(steps.tolist()) <= {0.5**k for k in range(7)}  # finer in narrow lines, which are few
        assert steps.min() <= 0.125
        assert np.count_nonzero(steps < 1.0) < 0.03 * steps.size
        assert np.isin(np.arange(low * 1e9, high * 1e9 + 1.0, 2e6), table.frequency).all()
        assert table.pressure.tolist() == [100.0 * p for p in read_site(site).pressure_hpa]
        assert not table.synthetic
        assert "Paine" in table.attrs["credit"]
        assert table.attrs["generator"].startswith("am 14")
        assert table.attrs["date"] == "2026-11-26"
        assert table.attrs["site"] == site
        assert table.t_eff is not None
        assert 180.0 < table.t_eff.min() < table.t_eff.max() < 280.0
        assert table.c.min() > -0.02 * max(1.0, table.b.max() * table.pwv[0])
    size = sum(p.stat().st_size for p in table_folder().rglob("*") if p.is_file())
    assert size < 2_000_000


@pytest.mark.parametrize(("name", "low", "high", "b", "c"), [
    ("cerro-chajnantor-455-500GHz", 455e9, 495e9, 0.864, 0.0762),
    ("cerro-chajnantor-795-825GHz", 800e9, 820e9, 1.338, 0.0932),
])  # fmt: skip
def test_medians_of_am_14_at_5600_m(name: str, low: float, high: float, b: float, c: float) -> None:
    """5600 m, 530 hPa, 265 K: values from a run of am 14 by others, with a profile of theirs."""
    table = builtin_table(name)
    inside = (table.frequency >= low) & (table.frequency <= high)
    opacity = table.opacity(table.frequency[inside], None, 53_000.0)
    assert np.median(opacity.b_signal) == pytest.approx(b, rel=0.05)
    assert np.median(opacity.c_signal) == pytest.approx(c, rel=0.05)


def test_auto_chooses_by_frequency_and_pressure() -> None:
    band = np.linspace(490e9, 494e9, 5)
    assert find_builtin(band, band - 12e9, pressure=53_000.0).name == "builtin:cerro-chajnantor-455-500GHz"
    assert find_builtin(np.linspace(345e9, 347e9, 5), pressure=55_600.0).name == "builtin:chajnantor-330-370GHz"
    assert find_builtin(np.array([1.9e12, 1.901e12]), pressure=17_000.0).name == "builtin:airborne-1880-1920GHz"
    assert find_builtin(band, pressure=55_600.0).name.startswith("builtin:cerro")  # 1 % outside: clamped, with a flag
    with pytest.raises(AtmRange, match="covers both sidebands"):
        find_builtin(band, band + 12e9)
    with pytest.raises(AtmRange, match="for this pressure"):
        find_builtin(np.array([1.9e12, 1.901e12]), pressure=55_000.0)  # a line in the lab, or a wrong pamb
    assert given_table("builtin:airborne-4700-4780GHz").pressure[0] == 14_000.0
    with pytest.raises(ConfigError, match="no such built-in"):
        given_table("builtin:mars")


def test_a_run_with_a_table_by_name(tmp_path: Path) -> None:
    l0 = small_scan(shape=(64, 3, 1, 1)).store(tmp_path / "l0.zarr")
    for given in ("auto", "builtin:cerro-chajnantor-455-500GHz"):
        out = tmp_path / f"{given[:4]}.zarr"
        report = calibrate(l0, out, Settings(atmosphere=given, pwv_min=0.05))
        assert report.exit_code == 0
        attrs = zarr.open_group(str(out), mode="r")["scan_025650"].attrs
        assert attrs["atm_table"] == "builtin:cerro-chajnantor-455-500GHz"
        assert attrs["pwv_mm"] == pytest.approx(0.6, rel=1e-9)
        assert not any("synthetic" in line for scan in report.scans for line in scan.warnings)


def test_auto_has_effective_temperatures_and_minds_the_pressure(tmp_path: Path) -> None:
    scan = small_scan(shape=(64, 3, 1, 1))
    l0 = scan.store(tmp_path / "l0.zarr")
    assert calibrate(l0, tmp_path / "a.zarr", Settings(t_atm="table")).exit_code == 0
    attrs = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["scan_025650"].attrs
    assert attrs["pwv_mm"] > 0.62  # counts of a sky at ambient temperature, taken for one at about 253 K
    scan.source["pamb"] = scan.source["pamb"] * 600.0 / 530.0
    (line,) = calibrate(scan.store(tmp_path / "b.zarr"), tmp_path / "c.zarr", Settings()).scans
    assert (line.error, "600 hPa" in line.message) == ("AtmRange", True)


def test_pressures_in_torr_pascal_and_hectopascal_agree() -> None:
    """L0 gives Torr, the table holds Pa: 530 hPa = 397.53 Torr falls on the middle layer."""
    from calib_gpu.atm.units import PRESSURE, quantity

    values = [
        quantity(text, PRESSURE, "hPa", "pressure") for text in ("530", "530 hPa", "53000Pa", "397.5327Torr", "53 kPa")
    ]
    np.testing.assert_allclose(values, 53_000.0, rtol=1e-6)


def test_sites_are_complete() -> None:
    assert {"cerro-chajnantor", "chajnantor", "airborne"} <= set(shipped_sites())
    for name in shipped_sites():
        site = read_site(name)
        rows = site.above(site.pressure_hpa[0])
        assert rows[-1, 0] == site.pressure_hpa[0]
        assert np.all(np.diff(rows[:, 0]) > 0)
        assert 170.0 < rows[:, 1].min() < rows[:, 1].max() < 300.0
        assert site.origin
    site = read_site("cerro-chajnantor")
    assert site.above(530.0)[-1, 1] == 265.0
    warm = site.above(530.0, 275.0) - site.above(530.0)
    assert (warm[-1, 1], warm[0, 1]) == (10.0, 0.0)
    with pytest.raises(ConfigError, match="outside the profile"):
        site.above(900.0)


def test_a_site_of_ones_own(tmp_path: Path) -> None:
    from importlib import resources

    text = (resources.files("calib_gpu.atm") / "sites" / "chajnantor.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("5100", "5050"))
    assert read_site(str(tmp_path / "mine.toml")).altitude_m == 5050
    (tmp_path / "bad.toml").write_text(text.replace("altitude_m", "height"))
    with pytest.raises(ConfigError, match="height"):
        read_site(str(tmp_path / "bad.toml"))
    with pytest.raises(ConfigError, match="no such site"):
        read_site("atlantis")
