"""Text and CSV tables to opacity tables, pictures, and the commands ``calib-gpu atm``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cli import cli

from calib_gpu.atm.convert import Columns, convert, read_columns
from calib_gpu.atm.files import read_table, write_table
from calib_gpu.atm.table import OpacityTable
from calib_gpu.atm.units import FREQUENCY, WATER, factor, quantities, quantity
from calib_gpu.errors import ConfigError

GHZ = np.array([460.0, 460.5, 461.0, 462.0])
B, C = np.array([0.65, 0.66, 0.68, 0.7]), np.array([0.04, 0.041, 0.05, 0.045])


def text(path: Path, *columns: np.ndarray, delimiter: str = " ", header: str = "# a comment\n") -> Path:
    rows = "\n".join(delimiter.join(f"{v:.12g}" for v in row) for row in zip(*columns, strict=True))
    path.write_text(header + rows + "\n")
    return path


@pytest.mark.parametrize(("scale", "unit"), [(1.0, "GHz"), (1e3, "MHz"), (1e9, "Hz"), (1e-3, "THz")])
def test_frequency_units(tmp_path: Path, scale: float, unit: str) -> None:
    path = text(tmp_path / "a.txt", GHZ * scale, B, C)
    table, misfit = convert([path], [53_000.0], Columns(factor(unit, FREQUENCY, "unit")))
    np.testing.assert_allclose(table.frequency, GHZ * 1e9)
    np.testing.assert_allclose(table.b[0], B)
    np.testing.assert_allclose(table.c[0], C)
    assert misfit is None


def test_b_per_micrometre_and_an_effective_temperature(tmp_path: Path) -> None:
    path = text(
        tmp_path / "a.csv", GHZ[::-1], B[::-1] / 1e3, C[::-1], 250.0 + B[::-1], delimiter=",", header="nu,b,c,T\n"
    )
    table, _ = convert([path], [53_000.0], Columns(water_mm=factor("um", WATER, "unit")))
    np.testing.assert_allclose(table.b[0], B)
    assert table.t_eff is not None
    np.testing.assert_allclose(table.t_eff[0], 250.0 + B)


@pytest.mark.parametrize("quantity_name", ["transmission", "opacity"])
@pytest.mark.parametrize("waters", ["0.2,0.5,1mm", "200,500,1000um", "0.2,0.5,1", "0.2mm,500um,0.1cm"])
def test_transmissions_and_opacities_at_several_waters(tmp_path: Path, quantity_name: str, waters: str) -> None:
    pwv = quantities(waters, WATER, "mm", "--pwv")
    np.testing.assert_allclose(pwv, [0.2, 0.5, 1.0])
    slant = [1.5 * (B * w + C) for w in (0.2, 0.5, 1.0)]
    values = slant if quantity_name == "opacity" else [np.exp(-v) for v in slant]
    path = text(tmp_path / "a.csv", GHZ, *values, delimiter=";")
    table, misfit = convert([path], [53_000.0], Columns(pwv_mm=pwv, quantity=quantity_name, airmass=1.5))
    np.testing.assert_allclose(table.b[0], B, rtol=1e-9)
    np.testing.assert_allclose(table.c[0], C, rtol=1e-8)
    assert misfit is not None
    assert misfit.largest < 1e-10
    assert table.attrs["pwv_fit_mm"] == [0.2, 0.5, 1.0]


def test_misfit_of_a_curved_opacity_is_reported(tmp_path: Path) -> None:
    waters = np.array([0.2, 0.6, 1.0])
    path = text(tmp_path / "a.txt", GHZ, *(np.exp(-(B * w + C + 0.05 * w**2)) for w in waters))
    table, misfit = convert([path], [53_000.0], Columns(pwv_mm=tuple(waters)))
    fitted = np.exp(-(table.b[0][:, None] * waters + table.c[0][:, None]))
    true = np.exp(-(B[:, None] * waters + C[:, None] + 0.05 * waters**2))
    assert misfit is not None
    assert misfit.largest == pytest.approx(np.abs(fitted - true).max(), rel=1e-6)
    assert 1e-3 < misfit.rms < misfit.largest < 0.01


def test_the_clear_columns_count_most(tmp_path: Path) -> None:
    """An opacity of 9 Np with a transmission of noise alone must not tilt the line through those of 0.5 and 0.9."""
    t = [np.exp(-v) * np.ones(4) for v in (0.5, 0.9)] + [np.full(4, 3e-4)]
    table, _ = convert([text(tmp_path / "a.txt", GHZ, *t)], [53_000.0], Columns(pwv_mm=(0.5, 1.0, 11.0)))
    np.testing.assert_allclose(table.b[0] * 0.5 + table.c[0], 0.5, atol=1e-3)
    np.testing.assert_allclose(table.b[0] * 1.0 + table.c[0], 0.9, atol=1e-3)


def test_opaque_channels_stay_opaque(tmp_path: Path) -> None:
    path = text(tmp_path / "a.txt", GHZ, np.array([0.5, 0.0, 0.5, 0.5]), np.array([0.3, 0.0, 0.3, 0.3]))
    table, _ = convert([path], [53_000.0], Columns(pwv_mm=(0.5, 1.0)))
    assert table.b[0, 1] * 0.5 + table.c[0, 1] > 10.0
    assert np.all(np.isfinite(table.b))


def test_layers_are_put_in_order_of_pressure(tmp_path: Path) -> None:
    paths = [text(tmp_path / f"{k}.txt", GHZ, B * k, C) for k in (2, 1)]
    table, _ = convert(paths, [54_000.0, 52_000.0], Columns())
    assert table.pressure.tolist() == [52_000.0, 54_000.0]
    np.testing.assert_allclose(table.b, [B, 2 * B])
    write_table(tmp_path / "a.table", table)
    np.testing.assert_allclose(read_table(tmp_path / "a.table").b, table.b, rtol=1e-4)


@pytest.mark.parametrize(("content", "columns", "word"), [
    ("1 2 3\n1 2\n", Columns(), "line 2"), ("1 2 3\nx y z\n", Columns(), "line 2"), ("1 2\n2 3\n", Columns(), "columns"),
    ("1 2 3\n", Columns(), "no table"), ("460 0.5 1.5\n461 0.5 0.4\n", Columns(pwv_mm=(0.5, 1.0)), "not a transmission"),
    ("460 0.5\n461 0.5\n", Columns(pwv_mm=(0.5, 1.0)), "3: frequency"), ("460 1 nan\n461 1 1\n", Columns(), "not numbers"),
    ("460 1 1\n460 1 1\n", Columns(), "increasing"),
])  # fmt: skip
def test_wrong_text_is_refused(tmp_path: Path, content: str, columns: Columns, word: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ConfigError, match=word):
        convert([tmp_path / "a.txt"], [53_000.0], columns)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for changes in ({"quantity": "colour"}, {"pwv_mm": (0.5,)}, {"pwv_mm": (0.5, 0.5)}, {"airmass": 0.5}):
        with pytest.raises(ConfigError):
            Columns(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be read"):
        read_columns(tmp_path / "absent.txt")
    for wrong in ("2 parsec", "-3 mm", "mm", "0", "1e999 mm", ""):
        with pytest.raises(ConfigError):
            quantity(wrong, WATER, "mm", "--pwv")
    assert quantity("8 µm", WATER, "mm", "--pwv") == pytest.approx(0.008)
    assert quantity("530 TORR", {"Torr": 2.0}, "Torr", "p") == 1060.0


# --- the commands


def test_convert_info_and_use_by_the_command_line(tmp_path: Path) -> None:
    nu = np.linspace(470.0, 500.0, 61)
    text(tmp_path / "a.txt", nu, *(np.exp(-(0.9 * w + 0.07)) * np.ones(61) for w in (0.2, 0.9)))
    made = cli(tmp_path, "atm", "convert", "a.txt", "a.table", "--pressure", "397.53Torr", "--pwv", "200,900um")
    assert made.returncode == 0, made.stderr
    assert "largest difference" in made.stdout
    shown = cli(tmp_path, "atm", "info", "a.table").stdout
    assert "470 to 500 GHz, 61 points, step 500 MHz" in shown
    assert "b median 0.9," in shown
    assert "530 hPa" in shown
    assert cli(tmp_path, "atm", "convert", "a.txt", "a.table", "--pressure", "530", "--pwv", "0.2,0.9").returncode == 73
    assert cli(tmp_path, "atm", "convert", "a.txt", "b.table", "--pressure", "lots").returncode == 64
    package = cli(tmp_path, "atm", "info").stdout
    assert "builtin:cerro-chajnantor-455-500GHz" in package
    assert "mauna-kea" in package
    builtin = cli(tmp_path, "atm", "info", "builtin:airborne-1880-1920GHz").stdout
    assert "Scott Paine" in builtin


def test_make_by_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("am", reason="am-python is not here: pip install 'calib-gpu[atm]'")
    made = cli(
        tmp_path, "atm", "make", "--site", "airborne", "--band", "1.9THz", "1900010 MHz", "--pressure", "165hPa",
        "--pwv", "5um", "0.02mm", "-o", "a.table", "--workers", "1", "--date", "2026-01-01",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    table = read_table(tmp_path / "a.table")
    assert (table.frequency[0], table.frequency[-1], table.pressure[0]) == (1.9e12, 1.90001e12, 16_500.0)
    assert table.attrs["pwv_fit_mm"] == [0.005, 0.02]
    assert cli(tmp_path, "atm", "make", "--site", "moon", "--band", "1THz", "2THz", "-o", "x").returncode == 64


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not here: pip install 'calib-gpu[plot]'")
    from calib_gpu.atm.builtin import builtin_table
    from calib_gpu.atm.plot import plot_table

    plot_table(builtin_table("chajnantor-210-240GHz"), tmp_path / f"a.{ending}", [0.5, 2.0], 1.5)
    assert (tmp_path / f"a.{ending}").stat().st_size > 20_000
    nu = np.linspace(1e11, 2e11, 5)
    bare = OpacityTable(nu, np.array([5e4]), np.full((1, 5), 0.1), np.full((1, 5), -0.01), None, "bare")
    plot_table(bare, tmp_path / f"b.{ending}")
    with pytest.raises(ConfigError, match=r"\.png"):
        plot_table(bare, tmp_path / "b.gif")
