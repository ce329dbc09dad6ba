"""The velocity of LSR frequencies: against what the GBT wrote, against astropy, and in a run."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from calib_gpu import Settings
from calib_gpu.atm.builtin import builtin_tables
from calib_gpu.pipeline import RunReport, calibrate
from small_scan import small_scan

erfa = pytest.importorskip("erfa")

from calib_gpu.physics.frequency import SPEED_OF_LIGHT, to_topocentric  # noqa: E402
from calib_gpu.physics.observer import SOLAR_MOTION, lsr_velocity, observer_velocity, unit_vector  # noqa: E402

GBT = (-79.83983, 38.43312, 824.595)
SHAPE = (32, 2, 1, 1)
POSITION = {"source_lon_deg": 83.8221, "source_lat_deg": -5.3911}
SITE = {"site_lon_deg": -67.74, "site_lat_deg": -22.99, "site_height_m": 5600.0}


def mjd(text: str) -> float:
    return float((np.datetime64(text, "us") - np.datetime64("1858-11-17", "us")) / np.timedelta64(1, "D"))


def test_what_the_green_bank_telescope_wrote() -> None:
    """VFRAME of two archived observations: NGC 5908 in the LSR (AGBT, scan 331), M82 in the barycentric frame (scan 131)."""
    ngc5908, m82 = unit_vector(229.19, 55.41, "icrs"), unit_vector(148.9695, 69.6794, "icrs")
    assert lsr_velocity(mjd("2022-02-01T12:52:26"), ngc5908, GBT) == pytest.approx(-25_215.830, abs=2.0)
    assert -m82 @ observer_velocity(mjd("2017-02-04T10:11:44"), GBT) == pytest.approx(5_241.162, abs=2.0)


def test_the_solar_motion_is_20_km_s_towards_18h_30_deg_of_1900() -> None:
    """Precession to 2000 by astropy's FK4 frames, which this engine does not use."""
    coordinates = pytest.importorskip("astropy.coordinates")
    apex = coordinates.SkyCoord(270.0, 30.0, unit="deg", frame="fk4", equinox="B1900").icrs.cartesian.xyz.value
    np.testing.assert_allclose(SOLAR_MOTION, 20_000.0 * apex, atol=5.0)
    np.testing.assert_allclose(np.linalg.norm(SOLAR_MOTION), 20_000.0, atol=1.0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.filterwarnings("ignore")  # astropy has remarks on distances that are not given, and on old tables
@pytest.mark.usefixtures("no_network")
def test_against_astropy() -> None:
    """Ratio of LSRK and topocentric frequency by astropy's SpectralCoord; 50 m/s would do, relativity is 10 m/s."""
    coordinates = pytest.importorskip("astropy.coordinates")
    from astropy.time import Time
    from astropy.utils import iers

    rng = np.random.default_rng(3)
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("auto_max_age", None):
        for _ in range(12):
            lon, lat = rng.uniform(0.0, 360.0), np.degrees(np.arcsin(rng.uniform(-1.0, 1.0)))
            site = (rng.uniform(-180.0, 180.0), rng.uniform(-80.0, 80.0), rng.uniform(0.0, 6000.0))
            when = rng.uniform(52_000.0, 60_000.0)
            place = coordinates.EarthLocation.from_geodetic(*site)
            target = coordinates.SkyCoord(lon, lat, unit="deg")
            axis = coordinates.SpectralCoord(
                500e9, unit="Hz", observer=place.get_itrs(Time(when, format="mjd")), target=target
            )
            ratio = float(axis.value / axis.with_observer_stationary_relative_to("lsrk").value)
            expected = SPEED_OF_LIGHT * (1.0 - ratio)
            assert lsr_velocity(when, unit_vector(lon, lat, "icrs"), site) == pytest.approx(expected, abs=10.0)


def test_sign_what_is_approached_is_received_higher() -> None:
    """The Sun moves towards the apex: averaged over a year the LSR comes from there with 20 km/s."""
    apex = np.array(SOLAR_MOTION) / np.linalg.norm(SOLAR_MOTION)
    year = [lsr_velocity(59_000.0 + d, apex, GBT) for d in np.arange(0.0, 365.25, 5.0)]
    assert np.mean(year) == pytest.approx(-20_000.0, abs=300.0)
    assert np.ptp(year) > 30_000.0  # the Earth's 30 km/s, at an ecliptic latitude of 53 deg
    assert to_topocentric(np.array([492e9]), float(np.mean(year)))[0] > 492e9


def test_rotation_of_the_earth() -> None:
    """At the equator towards the rising point the site moves with 465 m/s: half a day later away."""
    site, towards = (0.0, 0.0, 0.0), unit_vector(0.0, 0.0, "icrs")
    hours = np.arange(0.0, 24.0, 0.25)
    v = np.array([observer_velocity(59_000.0 + h / 24.0, site) @ towards for h in hours])
    v -= np.array([observer_velocity(59_000.0 + h / 24.0, (0.0, 90.0, 0.0)) @ towards for h in hours])  # at the pole
    assert np.abs(v).max() == pytest.approx(465.1, rel=0.003)
    assert v.mean() == pytest.approx(0.0, abs=2.0)
    # the vernal point is in the meridian of Greenwich at sidereal time 0, and rises 6 h before: then it is approached most
    sidereal = (280.46062 + 360.9856473 * (59_000.0 + hours / 24.0 - 51_544.5)) % 360.0
    assert abs(sidereal[np.argmax(v)] - 270.0) < 5.0


def test_galactic_coordinates() -> None:
    """The pole and the centre of the galaxy, in the J2000 coordinates of their definition."""
    np.testing.assert_allclose(unit_vector(0.0, 90.0, "galactic"), unit_vector(192.85948, 27.12825, "icrs"), atol=1e-6)
    np.testing.assert_allclose(unit_vector(0.0, 0.0, "galactic"), unit_vector(266.40510, -28.93617, "icrs"), atol=1e-5)


# --- in a run


def run(folder: Path, attrs: dict[str, Any], settings: Settings | None = None, when: float = 60_000.0) -> RunReport:
    scan = small_scan(shape=SHAPE, mjd=when)
    scan.attrs |= {"frequency_frame": "lsrk", **attrs}
    return calibrate(scan.store(folder / "l0.zarr"), folder / "l1.zarr", settings or Settings(pwv=0.6))


def l1(folder: Path) -> zarr.Group:
    return zarr.open_group(str(folder / "l1.zarr"), mode="r")["scan_025650"]


@pytest.mark.usefixtures("no_network")
def test_opacity_is_looked_up_at_the_computed_topocentric_frequency(tmp_path: Path) -> None:
    assert run(tmp_path, POSITION | SITE).exit_code == 0
    out, table = l1(tmp_path), builtin_tables()[0]
    # ONs at 30, 60 and 120 s
    v = lsr_velocity(60_000.0 + 70.0 / 86_400.0, unit_vector(83.8221, -5.3911, "icrs"), (-67.74, -22.99, 5600.0))
    used = out.attrs["receiver"]["frame_velocity_m_s"]
    assert used == {"value": pytest.approx(v, abs=0.06), "from": "computed, site from store"}
    assert out.attrs["frame_velocity_m_s"] == used["value"]
    nu = out["frequency_signal"][:] * (1.0 - v / SPEED_OF_LIGHT)
    b, c = (np.interp(nu, table.frequency, t[1]) for t in (table.b, table.c))
    np.testing.assert_allclose(out["tau_signal"][:], 0.6 * b + c, rtol=1e-6)


@pytest.mark.parametrize(("attrs", "layers", "origin"), [
    (POSITION | SITE, {"profile": (1.0, 2.0)}, "computed, site from store"),
    (POSITION | SITE, {"options": (1.0, 2.0)}, "computed, site from option"),
    (POSITION, {"profile": (1.0, 2.0)}, "computed, site from profile"),
    (POSITION | SITE | {"frame_velocity_m_s": -7e3}, {"options": (1.0, 2.0)}, "store"),
])  # fmt: skip
def test_where_velocity_and_site_are_from(
    tmp_path: Path, attrs: dict[str, Any], layers: dict[str, tuple[float, float]], origin: str
) -> None:
    given = {layer: {"site_lon": lon, "site_lat": lat} for layer, (lon, lat) in layers.items()}
    given["options"] = given.get("options", {}) | {"pwv": 0.6}
    assert run(tmp_path, attrs, Settings.layered(**given)).exit_code == 0
    used = l1(tmp_path).attrs["receiver"]["frame_velocity_m_s"]
    assert used["from"] == origin
    site = (1.0, 2.0, 0.0) if "store" not in origin else (-67.74, -22.99, 5600.0)
    v = lsr_velocity(60_000.0 + 70.0 / 86_400.0, unit_vector(83.8221, -5.3911, "icrs"), site)
    assert used["value"] == pytest.approx(-7e3 if origin == "store" else v, abs=0.06)


@pytest.mark.parametrize(("attrs", "error", "words"), [
    (POSITION, "MissingValue", ("frame_velocity_m_s", "site_lon")), (SITE, "MissingValue", ("source_lon_deg",)),
    (POSITION | SITE | {"frame_velocity_m_s": "fast"}, "BadType", ("frame_velocity_m_s", "fast")),
    ({"source_lon_deg": 1.0} | SITE, "MissingValue", ("source_lat_deg",)),
    (POSITION | {"site_lat_deg": 1.0}, "MissingValue", ("site_lon_deg",)),
    (POSITION | SITE | {"source_lat_deg": 91.0}, "BadType", ("source_lat_deg", "91")),
    (POSITION | SITE | {"source_system": "ecliptic"}, "BadType", ("source_system", "galactic")),
    ({"rest_frequency_hz": 492.16}, "BadType", ("rest_frequency_hz", "492.16")),
    ({"rest_frequency_hz": "CO"}, "BadType", ("rest_frequency_hz", "CO")),
], ids=str)  # fmt: skip
def test_what_is_missing_or_wrong_is_named(
    tmp_path: Path, attrs: dict[str, Any], error: str, words: tuple[str, ...]
) -> None:
    (line,) = run(tmp_path, attrs).scans
    assert line.error == error
    assert all(word in line.message for word in words), line.message


def test_a_time_that_is_no_date(tmp_path: Path) -> None:
    (line,) = run(tmp_path, POSITION | SITE, when=2_460_000.5).scans  # a Julian date
    assert (line.error, "mjd" in line.message) == ("BadType", True)


def test_without_pyerfa_the_extra_and_the_attribute_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "erfa", None)
    (line,) = run(tmp_path / "a", POSITION | SITE).scans
    assert line.error == "ConfigError"
    assert all(word in line.message for word in ("calib-gpu[frame]", "frame_velocity_m_s"))
    assert run(tmp_path / "b", POSITION | SITE | {"frame_velocity_m_s": 1e3}).exit_code == 0
    assert run(tmp_path / "c", POSITION | SITE, Settings(atmosphere="none")).exit_code == 0
    assert "frame_velocity_m_s" not in l1(tmp_path / "c").attrs
