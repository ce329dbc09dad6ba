"""What L0 tells of source, site and loads is in L1, and what reads L1 uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import calib_gpu
from calib_gpu import ConfigError, Settings, schema
from calib_gpu.pipeline import calibrate
from calib_gpu.qa.products import open_products
from calib_gpu.qa.report.summary import summarise
from calib_gpu.records import ScanId
from calib_gpu.store.l0_write import L0Writer
from small_scan import small_scan

SHAPE = (32, 2, 1, 1)
TOLD = {
    "telescope": "FYST", "instrument": "CHAI", "project": "P-1", "rest_frequency_hz": 492.160651e9, "source_lon_deg": 83.8,
    "source_lat_deg": -5.4, "source_system": "galactic", "offset_frame": "galactic", "site_lon_deg": -67.7,
    "site_lat_deg": -23.0, "site_height_m": 5600.0,
}  # fmt: skip


def run(folder: Path, attrs: dict[str, Any], settings: Settings | None = None, **source: Any) -> zarr.Group:
    scan = small_scan(shape=SHAPE)
    scan.attrs |= attrs
    scan.source |= source
    scan.write(L0Writer(folder / "l0.zarr", {}))
    assert calibrate(folder / "l0.zarr", folder / "l1.zarr", settings or Settings(pwv=0.6)).exit_code == 0
    return zarr.open_group(str(folder / "l1.zarr"), mode="r")["scan_025650"]


def test_what_l0_tells_l1_tells(tmp_path: Path) -> None:
    assert set(TOLD) == {row.name for row in schema.TOLD}
    attrs = run(tmp_path, TOLD | {"time_ref": "start", "frequency_frame": "Topocentric"}).attrs
    assert {name: attrs[name] for name in TOLD} == TOLD
    assert (attrs["time_ref"], attrs["frequency_frame"]) == ("start", "topocentric")
    assert "frame_velocity_m_s" not in attrs


def test_what_l0_lacks_l1_lacks(tmp_path: Path) -> None:
    attrs = run(tmp_path, {"frequency_frame": None}).attrs
    assert not {*TOLD, "frequency_frame", "frame_velocity_m_s"} & set(attrs)
    assert attrs["time_ref"] == "mid"


def test_the_site_of_a_profile_is_told(tmp_path: Path) -> None:
    settings = Settings.layered({"pwv": 0.6}, profile={"site_lon": -67.0, "site_lat": -22.0, "site_height": 5000.0})
    attrs = run(tmp_path, {}, settings).attrs
    assert [attrs[f"site_{n}"] for n in ("lon_deg", "lat_deg", "height_m")] == [-67.0, -22.0, 5000.0]


def test_temperatures_of_the_loads(tmp_path: Path) -> None:
    """One number for each load set that was used."""
    store = L0Writer(tmp_path / "l0.zarr", {})
    for number, minutes, kelvin in ((1, 0, 290.0), (2, 10, None), (3, 20, 294.0)):
        scan = small_scan(number, shape=SHAPE, mjd=60000.0 + minutes / 1440.0)
        if kelvin is None:
            scan.loads = None
        else:
            scan.calibration["thot"], scan.calibration["tcold"] = np.array([kelvin, np.nan]), np.array([0.0, 77.5])
        scan.write(store, with_source=kelvin is None)
    settings = Settings(loads="linear", pwv=0.6)
    assert calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", settings).exit_code == 0
    attrs = zarr.open_group(str(tmp_path / "l1.zarr"), mode="r")["scan_000002"].attrs
    assert (attrs["load_scans"], attrs["t_hot_k"], attrs["t_cold_k"]) == ([1, 3], [290.0, 294.0], [77.5, 77.5])


@pytest.mark.parametrize(("settings", "has"), [(Settings(pwv=0.6), True), (Settings(atmosphere="none"), False)])
def test_airmass_of_the_offs(tmp_path: Path, settings: Settings, has: bool) -> None:
    elevation = np.radians([50.0, 51.0, 52.0, 53.0, 54.0])
    out = run(tmp_path, {}, settings, elevation=elevation)
    np.testing.assert_array_equal(out["off_index"][:], [0, 3])
    expected = 1.0 / np.sin(elevation[[0, 3]]) if has else [np.nan, np.nan]
    np.testing.assert_allclose(out["airmass_off"][:], expected, rtol=1e-14)
    assert out["airmass_off"].metadata.dimension_names == ("off",)


@pytest.mark.parametrize("place", ["", "scan_025650"])
@pytest.mark.parametrize(("attribute", "noticed"), [
    ({"frame_velocity_m_s": 2e3}, True), ({"source_lat_deg": 7.0}, True), ({"adc_saturation": 1e9}, True),
    ({"time_ref": "start"}, True), ({"remark": "moved to another disk"}, False),
], ids=str)  # fmt: skip
def test_a_rerun_notices_other_attributes(tmp_path: Path, attribute: dict[str, Any], noticed: bool, place: str) -> None:
    """What a scan was made from lies above its group as well; a remark does not count."""
    names = ("source_lon_deg", "source_lat_deg", "frame_velocity_m_s")
    about = {"frequency_frame": "lsrk"} | dict(zip(names, (83.8, -5.4, 1e3), strict=True))
    scan = small_scan(shape=SHAPE)
    scan.attrs |= about if place else {"frequency_frame": "lsrk"}
    scan.write(L0Writer(tmp_path / "l0.zarr", {} if place else about))
    calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", Settings(pwv=0.6))
    zarr.open_group(str(tmp_path / "l0.zarr"), mode="r+", path=place).attrs.update(attribute)
    if not noticed:
        assert calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", Settings(pwv=0.6)).scans[0].status == "skipped"
        return
    with pytest.raises(ConfigError, match="other input"):
        calibrate(tmp_path / "l0.zarr", tmp_path / "l1.zarr", Settings(pwv=0.6))


def test_velocities_need_no_rest_frequency_of_the_user(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    run(tmp_path, TOLD)
    scan = calib_gpu.open_l1(tmp_path / "l1.zarr", 25650)
    expected = 299792.458 * (1.0 - scan.frequency_signal.values / 492.160651e9)
    np.testing.assert_allclose(scan.calib.velocity().values, expected, rtol=1e-9)
    assert scan.airmass_off.dims == scan.off_index.dims == ("off",)


def test_the_report_tells_it(tmp_path: Path) -> None:
    run(tmp_path, TOLD | {"frequency_frame": "lsrk", "frame_velocity_m_s": 12_345.6})
    record = summarise(open_products(tmp_path / "l1.zarr", ScanId(25650)), 100_000).record
    assert record["rest"] == 492.160651
    facts = dict(record["facts"])
    assert facts["T_hot"] == "295 K"
    assert (facts["frequency frame"], facts["telescope"], facts["project"]) == ("lsrk", "FYST", "P-1")
    assert facts["frame_velocity_m_s"] == "12346 (store)"
