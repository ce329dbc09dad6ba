"""Settings: their layers, bounds and digest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from calib_gpu import ConfigError, Settings
from calib_gpu.config_files import parse_size, parse_text, read_profile, read_toml
from calib_gpu.pipeline import calibrate
from calib_gpu.settings import knobs
from small_scan import small_scan

SHAPE = (32, 2, 1, 1)


@pytest.mark.parametrize("bad", [
    {"eta_f": 0.0}, {"eta_f": 1.1}, {"eta_f": float("nan")}, {"eta_f": "much"}, {"eta_f": True}, {"mode": "fsw"}, {"pwv": "some"},
    {"pwv": -1.0}, {"pwv_min": 3.0, "pwv_max": 2.0}, {"smooth_width": 8}, {"smooth_width": 2.5}, {"eta_h": 0.5, "eta_c": 0.5},
    {"gain_sig": 0.5}, {"gain_sig": 0.5, "gain_img": 0.5, "g_sig": 0.5}, {"workers": -1}, {"dtype": "int32"}, {"overwrite": 1},
    {"sideband_ratio": 1.0}, {"mode": None}, {"memory": 10},
], ids=str)  # fmt: skip
def test_bad_settings_name_themselves(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**bad)
    assert next(iter(bad)) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("2GiB", 2 << 30), ("1000000", 1_000_000), ("1.5k", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("memory", text) == size


@pytest.mark.parametrize("text", ["", "M", "12X", "-", "nan"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_size("memory", text)


@pytest.mark.parametrize(("name", "text", "value"), [
    ("eta_f", "0.94", 0.94), ("pwv", "fit", "fit"), ("pwv", "0.5", 0.5), ("workers", "3", 3), ("pwv_header", "none", None),
    ("overwrite", "true", True), ("t_atm", "260", 260.0), ("atmosphere", "none", "none"),
])  # fmt: skip
def test_text_is_read_by_type(name: str, text: str, value: object) -> None:
    assert parse_text(name, text) == value
    assert getattr(Settings(**{name: parse_text(name, text)}), name) == value


def test_every_default_passes_its_own_rule() -> None:
    assert Settings(**{name: knob.default for name, knob in knobs().items()}).digest() != ""


def test_digest_sees_numbers_only() -> None:
    base = Settings().digest()
    for name, knob in knobs().items():
        other = {"int": 5, "bool": not knob.default}.get(str(knob.type))
        if other is not None:
            assert (
                Settings(**{name: 3 if name == "smooth_width" else 2**25 if name == "memory" else other}).digest()
                == base
            ) == (not knob.metadata["numeric"]), name


@pytest.mark.parametrize("text", ["eta_f = ", "[receiver]\neta_f = 0.9", "etaf = 0.9", "eta_f = 3.0"])
def test_bad_config_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError):
        Settings.layered(config=read_toml(tmp_path / "c.toml"))


def test_missing_config_and_profile() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        read_toml(Path("nowhere.toml"))
    with pytest.raises(ConfigError, match="generic"):
        read_profile("alma")
    assert Settings.layered(profile=read_profile("generic")).layer("eta_f") == "profile"


@pytest.mark.parametrize(("layers", "value", "origin"), [
    ({}, 0.95, "store"), ({"profile": 0.8}, 0.95, "store"), ({"config": 0.7, "profile": 0.8}, 0.7, "config"),
    ({"options": 0.6, "config": 0.7}, 0.6, "option"),
])  # fmt: skip
def test_precedence(tmp_path: Path, layers: dict[str, float], value: float, origin: str) -> None:
    """Option > config > store > profile > default; L1 tells what was used and from where."""
    l0 = small_scan(shape=SHAPE).store(tmp_path / "l0.zarr")
    settings = Settings.layered(**{layer: {"eta_f": v} for layer, v in layers.items()})
    calibrate(l0, tmp_path / "l1.zarr", settings)
    attrs = zarr.open_group(str(tmp_path / "l1.zarr"), mode="r")["scan_025650"].attrs
    assert attrs["receiver"]["eta_f"] == {"value": value, "from": origin}


def test_profile_and_default_where_the_store_is_silent(tmp_path: Path) -> None:
    scan = small_scan(shape=SHAPE)
    del scan.source["eta_f"]
    l0 = scan.store(tmp_path / "l0.zarr")
    for k, (settings, expected) in enumerate(((Settings(), 1.0), (Settings.layered(profile={"eta_f": 0.8}), 0.8))):
        calibrate(l0, tmp_path / f"{k}.zarr", settings)
        receiver = json.loads((tmp_path / f"{k}.zarr/scan_025650/zarr.json").read_bytes())["attributes"]["receiver"]
        assert receiver["eta_f"]["value"] == expected


def test_a_gain_notation_is_taken_whole_from_one_layer(tmp_path: Path) -> None:
    settings = Settings.layered(options={"g_sig": 0.7}, config={"gain_sig": 0.5, "gain_img": 0.5})
    assert (settings.g_sig, settings.gain_sig, settings.gain_img) == (0.7, None, None)
    l0 = small_scan(shape=SHAPE).store(tmp_path / "l0.zarr")
    calibrate(l0, tmp_path / "l1.zarr", settings)
    l1 = zarr.open_group(str(tmp_path / "l1.zarr"), mode="r")["scan_025650"]
    # gamma = DT'/(g_s eta_f) with g_s = 0.7 whatever the store says
    from small_scan import planck

    nu_s, nu_i = l1["frequency_signal"][:], l1["frequency_image"][:]
    contrast = 0.7 * (planck(nu_s, 295.0) - planck(nu_s, 80.0)) + 0.3 * (planck(nu_i, 295.0) - planck(nu_i, 80.0))
    np.testing.assert_allclose(l1["gamma"][:, 0, 0], contrast / (0.7 * 0.95), rtol=1e-12)
