"""Telescope profiles: every value is a setting with a source, users' files work the same, limits of T_rec and T_sys warn."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import zarr

from calib_gpu import ConfigError, Settings
from calib_gpu.atm.builtin import TABLES, builtin_table, table_name
from calib_gpu.config_files import fitting_profiles, load_profile, read_profile, read_toml, shipped_profiles
from calib_gpu.inspection.profiles import profile_table, profiles_table
from calib_gpu.pipeline import calibrate
from calib_gpu.settings import knobs
from small_scan import small_scan

NAMES = ["apex", "fyst-chai-hfa", "fyst-chai-lfa", "gbt-wband", "generic", "nanten2", "sofia-upgreat-hfa",
         "sofia-upgreat-lfa"]  # fmt: skip
SHAPE = (32, 2, 1, 2)
every = pytest.mark.parametrize("name", NAMES)


def test_these_are_shipped() -> None:
    assert shipped_profiles() == NAMES


@every
def test_a_profile_is_valid_and_tells_of_every_value_where_it_is_from(name: str) -> None:
    profile = load_profile(name)
    settings = Settings.layered(profile=read_profile(name))
    assert profile.title
    assert set(profile.values) == set(profile.source)
    assert all(len(text) >= len("assumption") for text in profile.source.values())
    assert settings.t_atm != "ambient"  # docs/physics.md 4.3: that makes T_A* 2 % too low
    assert settings.pwv_clip
    assert settings.layer("eta_f") == "profile"


@every
def test_the_default_table_is_in_the_package_and_made_for_the_site(name: str) -> None:
    settings = Settings.layered(profile=read_profile(name))
    kind, _, table = settings.atmosphere.partition(":")
    if kind != "builtin":
        assert settings.atmosphere == "auto"
        return
    assert table in [table_name(*row) for row in TABLES]
    assert builtin_table(table).t_eff is not None
    assert table.startswith("airborne" if name.startswith("sofia") else "cerro-chajnantor")


@pytest.mark.parametrize(("name", "low", "high", "default"), [
    ("sofia-upgreat-lfa", 0.0005, 0.5, 0.01), ("sofia-upgreat-hfa", 0.0005, 0.5, 0.01), ("apex", 0.01, 10.0, 1.0),
])  # fmt: skip
def test_range_of_the_water_vapour(name: str, low: float, high: float, default: float) -> None:
    """The ranges of physics 4.5: a floor of 0.01 mm would exclude the airborne telescope."""
    settings = Settings.layered(profile=read_profile(name))
    assert (settings.pwv_min, settings.pwv_max, settings.pwv_default) == (low, high, default)


def test_sites_are_where_the_telescopes_are() -> None:
    """Degrees from the minutes and seconds that the sources give; the aircraft has no site."""
    sites = {n: Settings.layered(profile=read_profile(n)) for n in NAMES}
    assert sites["apex"].site_lon == pytest.approx(-(67 + 45 / 60 + 33.0 / 3600), abs=1e-5)
    assert sites["apex"].site_lat == pytest.approx(-(23 + 20.8 / 3600), abs=1e-5)
    for name in ("fyst-chai-lfa", "fyst-chai-hfa"):
        assert sites[name].site_lon == pytest.approx(-(67 + 44 / 60 + 25.00 / 3600), abs=1e-5)
        assert sites[name].site_lat == pytest.approx(-(22 + 59 / 60 + 8.30 / 3600), abs=1e-5)
    assert sites["sofia-upgreat-lfa"].site_lon is None


def test_shell_heights_are_twice_the_scale_heights() -> None:
    """Water on the ground 2 km; air at 217 K: R T / (M g) = 6.35 km (physics 4.2: H = 2 Hs)."""
    assert read_profile("fyst-chai-lfa")["shell_height_km"] == 2 * 2.0
    air = 8.314462618 * 217.0 / (0.0289647 * 9.80665) / 1e3
    assert read_profile("sofia-upgreat-hfa")["shell_height_km"] == pytest.approx(2 * air, rel=0.01)


@pytest.mark.parametrize(("words", "fitting"), [
    (["FYST", "CHAI"], ["fyst-chai-hfa", "fyst-chai-lfa"]), (["FYST", "CHAI-LFA"], ["fyst-chai-lfa"]),
    (["SOFIA", "upGREAT HFA"], ["sofia-upgreat-hfa"]), (["SOFIA", "GREAT"], ["sofia-upgreat-hfa", "sofia-upgreat-lfa"]),
    (["APEX-12m", ""], ["apex"]), (["NANTEN2", "x"], ["nanten2"]), (["GBT", "Rcvr68_92"], ["gbt-wband"]),
    (["CCAT", "HFAV"], ["fyst-chai-hfa", "sofia-upgreat-hfa"]), (["simulated", "SIM"], []), (["", ""], []), (["a", "-"], []),
])  # fmt: skip
def test_which_profile_fits_a_store(words: list[str], fitting: list[str]) -> None:
    assert fitting_profiles(words) == fitting


def test_a_users_file_works_the_same(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('eta_f = 0.9\nt_atm = "factor"\n[about]\ntitle = "mine"\n[source]\neta_f = "skydip of\\n  2026"\n')
    assert Settings.layered(profile=read_profile(str(path))).eta_f == 0.9
    shown = profile_table(str(path))
    assert "mine" in shown.title
    rows = {row[0]: row for row in shown.rows}
    assert rows["eta_f"][1] == "0.9"
    assert rows["eta_f"][3:] == (knobs()["eta_f"].metadata["meaning"], "skydip of 2026")
    assert rows["t_atm"][4].startswith("assumption")
    assert load_profile(str(path)).assumed() == ("t_atm",)


@pytest.mark.parametrize(("text", "word"), [
    ("[source]\neta_f = 'x'", "eta_f"), ("eta_f = 0.9\n[source]\neta_f = 1", "source"),
    ("eta_f = 0.9\n[about]\nname = 'x'", "name"),
    ("[receiver]\neta_f = 0.9", "receiver"), ("source = 3", "source"), ("etaf = 0.9", "eta_f"), ("eta_f = 3.0", "eta_f"),
    ("site_lon = 10.0", "site_lat"),
])  # fmt: skip
def test_bad_profiles_name_what_is_wrong(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(ConfigError, match=word):
        profile_table(str(tmp_path / "my.toml"))


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
    (tmp_path / "my.toml").write_text(page.split("```text\n")[1].split("```")[0])
    profile = load_profile(str(tmp_path / "my.toml"))
    assert profile.assumed() == ("gain_sig", "gain_img", "atmosphere", "t_atm")
    Settings.layered(profile=profile.values)


def test_a_config_file_has_no_tables(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("eta_f = 0.9\n[source]\neta_f = 'x'")
    with pytest.raises(ConfigError, match="source"):
        read_toml(tmp_path / "my.toml")


def test_the_commands_show_every_value_and_its_source() -> None:
    call = [sys.executable, "-c", "from calib_gpu.cli import main; main()", "profiles"]
    listed = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert all(name in listed for name in NAMES)
    shown = subprocess.run([*call, "fyst-chai-hfa"], capture_output=True, text=True, check=True).stdout
    text = (resources.files("calib_gpu") / "profiles" / "fyst-chai-hfa.toml").read_text()
    assert all(name in shown for name in tomllib.loads(text)["source"])
    assert "assumption" in shown
    failed = subprocess.run([*call, "alma"], capture_output=True, text=True, check=False)
    assert (failed.returncode, "fyst-chai-lfa" in failed.stderr) == (64, True)


def test_the_table_counts_assumptions() -> None:
    rows = {row[0]: row for row in profiles_table().rows}
    text = (resources.files("calib_gpu") / "profiles" / "gbt-wband.toml").read_text()
    assert rows["gbt-wband"][3] == str(text.count('= "assumption'))


@pytest.mark.parametrize(("limits", "named"), [
    ({}, set()), ({"trec_max": 100.0}, {"trec_median"}), ({"tsys_max": 100.0}, {"tsys_median"}),
    ({"trec_max": 1e4, "tsys_max": 1e5}, set()),
])  # fmt: skip
def test_limits_of_the_telescope_warn(tmp_path: Path, limits: dict[str, float], named: set[str]) -> None:
    """T_rec of the small scan is 130 to 190 K, T_sys some hundred."""
    l0 = small_scan(shape=SHAPE).store(tmp_path / "l0.zarr")
    report = calibrate(l0, tmp_path / "l1.zarr", Settings.layered(profile=limits))
    qa = zarr.open_group(str(tmp_path / "l1.zarr"), mode="r")["scan_025650"].attrs["qa"]
    assert 130.0 * 0.9 < np.max(qa["trec_median"]) < 190.0 * 1.1
    assert set(qa["warnings"]) & {"trec_median", "tsys_median"} == named
    assert set(report.scans[0].qa_warnings) == set(qa["warnings"])


def test_limits_are_part_of_what_makes_l1() -> None:
    """The warnings are in L1's attributes: other limits, other bytes."""
    assert Settings(trec_max=100.0).digest() != Settings().digest()
